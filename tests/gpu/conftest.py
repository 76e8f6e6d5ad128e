"""What tests on a GPU share: the device, a job of one process on it, and small models.

Without a GPU each test is skipped, and says so. With PACED_GPU_TESTS_ON=cpu the same bodies run on the CPU,
but for what only a GPU can tell: tests/runtime/test_gpu_tests_on_the_cpu.py does that, so that they don't rot
between two GPUs.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch looks, here and in the processes that tests start.
os.environ.update({"CUDA_VISIBLE_DEVICES": ""} if os.environ.get("PACED_GPU_TESTS_ON") == "cpu" else {})

import pytest
import torch

from paced_megatron.config import ParallelConfig, TeacherConfig
from paced_megatron.runtime.world import World, joined_world
from tiny_models import make_tiny_qwen3

ON_CPU = os.environ.get("PACED_GPU_TESTS_ON") == "cpu"
NO_GPU = "needs a CUDA device: `make test-gpu` on a machine that has one"


def chosen_device(on_cpu: bool) -> torch.device:
    """The first GPU, or the CPU where that is asked for; the test is skipped where there is no GPU."""
    if on_cpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a test computes."""
    return chosen_device(ON_CPU)


@pytest.fixture(autouse=True)
def _needs_its_device(request: pytest.FixtureRequest) -> None:
    """A test that takes no `device` says "cuda" itself, and is for a GPU alone."""
    if "device" not in request.fixturenames:
        chosen_device(on_cpu=False)


class Memory:
    """() -> bytes of the device that tensors take. Of a CPU nobody knows: 0, and `counts` is False."""

    def __init__(self, device: torch.device) -> None:
        self.counts = device.type == "cuda"

    def __call__(self) -> int:
        if not self.counts:
            return 0
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()


@pytest.fixture
def memory(device: torch.device) -> Memory:
    return Memory(device)


@pytest.fixture
def world(device: torch.device) -> Iterator[World]:
    """A job of this one process, as `paced run` joins one; torch's default dtype is put back after it."""
    usual = torch.get_default_dtype()
    try:
        with joined_world(ParallelConfig(), TeacherConfig(), seed=1) as joined:
            assert joined.device == device
            yield joined
    finally:
        torch.set_default_dtype(usual)


Folder = Callable[[str, torch.dtype], Path]


@pytest.fixture(scope="session")
def folder(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """("student" or "teacher", dtype) -> the folder of a random Qwen3; the teacher has another width, depth
    and number of heads.

    On a GPU with Qwen3's own vocabulary, which no tile divides; a CPU would take minutes for it.
    """
    made: dict[tuple[str, torch.dtype], Path] = {}
    sizes = {
        "student": {"seed": 1, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 320},
        "teacher": {"seed": 2, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 448},
    }
    layers = {"student": 3, "teacher": 2}

    def of(name: str, dtype: torch.dtype) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = make_tiny_qwen3(
                tmp_path_factory.mktemp("models") / name,
                head_dim=64,
                num_hidden_layers=layers[name],
                vocab_size=151_936 if device.type == "cuda" else None,
                dtype=dtype,
                **sizes[name],
            )
        return made[name, dtype]

    return of
