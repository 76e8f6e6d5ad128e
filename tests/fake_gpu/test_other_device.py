"""A checkpoint that was written on a GPU and is read on the CPU, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from fake_gpu.device import CUDA_RNG_BYTES
from fake_gpu.steps import Case, examples, rank_on_gpu, take_step, trainer_on
from paced_megatron.models.distributed_checkpoint import saved_bytes
from paced_megatron.plan.work import Layout
from paced_megatron.runtime.world import job_of_one
from paced_megatron.training.checkpoints import load_checkpoint, save_checkpoint
from paced_megatron.training.trainer import Trainer
from plan import counted
from plan.counted import build_trainer
from tiny_models import make_tiny_qwen3

ON_CPU = counted.Case(Layout(), "float32")


@pytest.fixture
def model(tmp_path) -> Path:
    return make_tiny_qwen3(tmp_path / "model", seed=1, num_hidden_layers=1)


def on_cpu(model: Path) -> Trainer:
    return build_trainer(0, 1, model, model, ON_CPU)


def test_written_on_a_gpu_and_read_on_the_cpu_it_is_trained_on_from(model, tmp_path):
    """A real step on the CPU, whose attention takes the states of Megatron's tracker. The file is the CPU's
    own with a GPU's states put into it, as many bytes as CUDA's have: tensors of the GPU that isn't there
    have no content to go on from."""
    with job_of_one():
        trainer = on_cpu(model)
        trainer.step(counted.examples(ON_CPU))
        save_checkpoint(tmp_path / "checkpoints", 1, trainer)
        (file,) = tmp_path.glob("checkpoints/*/rng_000.pt")
        content = torch.load(file, weights_only=True)
        gpus = torch.zeros(CUDA_RNG_BYTES, dtype=torch.uint8)
        content |= {"cuda": gpus, "megatron": dict.fromkeys(content["megatron"], gpus)}
        file.write_bytes(saved_bytes(content))
        torch.manual_seed(7)
        said = load_checkpoint(tmp_path / "checkpoints", 1, trainer)
        assert torch.equal(torch.get_rng_state(), content["torch"])
        trainer.step(counted.examples(ON_CPU))
    assert said == (
        "iter_0000001 was written on a GPU; training goes on from it on the CPU, with the same data, and "
        "with new random states of the device, of which nothing in training draws"
    )


def test_written_on_the_cpu_and_read_on_a_gpu_the_gpu_keeps_its_own_states(model, tmp_path):
    """The GPU that isn't there refuses states of another size than CUDA's, as a real one does."""
    with job_of_one():
        save_checkpoint(tmp_path / "checkpoints", 1, on_cpu(model))
    with rank_on_gpu(0, 1):
        trainer = trainer_on(0, model, model, Case(training={"params_dtype": "float32"}))
        said = load_checkpoint(tmp_path / "checkpoints", 1, trainer)
        take_step(trainer, examples(2))
        assert {state.numel() for state in get_cuda_rng_tracker().get_states().values()} == {CUDA_RNG_BYTES}
    assert said is not None and "was written on the CPU; training goes on from it on a GPU" in said
