"""What counts as a lack of memory, and what is said of it. A GPU's numbers are made up: here is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from paced_megatron.runtime.lead import Lead, LeadFailed
from paced_megatron.runtime.out_of_memory import OutOfMemory, ending_alone, is_out_of_memory, told_where

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        MemoryError(),
    ],
)
def test_every_way_to_say_it_is_known(error):
    assert is_out_of_memory(error)
    said = r"^somewhere: out of main memory .*; do less$"
    with pytest.raises(OutOfMemory, match=said), told_where(lambda: "somewhere", "do less"):
        raise error


def test_torchs_own_error_for_too_large_a_tensor_on_the_cpu_is_known():
    with pytest.raises(OutOfMemory, match=r"DefaultCPUAllocator"), told_where(lambda: "here", "do less"):
        torch.empty(2**60, dtype=torch.int8)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a shape"),
        LeadFailed("rank 0 failed: CUDA out of memory"),
        ValueError("CUDA out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, told_where(lambda: "somewhere", "do less"):
        raise error
    assert raised.value is error


def test_on_a_gpu_its_size_and_the_peak_are_told(monkeypatch):
    card = SimpleNamespace(total_memory=80 * 2**30)
    for name, value in {
        "is_available": True,
        "current_device": 0,
        "get_device_properties": card,
        "max_memory_allocated": 70 * 2**30,
        "memory_reserved": 75 * 2**30,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    with pytest.raises(OutOfMemory) as raised, told_where(lambda: "step 3", "do less"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total ...")
    assert str(raised.value) == (
        "step 3: out of memory on a GPU of 80.0 GB, of which torch's tensors have had up to 70.0 GB, and the "
        "allocator holds 75.0 GB (CUDA out of memory. Tried to allocate 9.00 GiB); do less"
    )


def test_a_rank_alone_tells_the_others_whose_collective_breaks(capsys):
    import torch.distributed as dist

    store = dist.HashStore()
    first, second = (Lead(rank, 2, store) for rank in (0, 1))
    with pytest.raises(OutOfMemory, match=r"^rank 1: step 3: full$"), ending_alone(second, 1, CPU):
        raise OutOfMemory("step 3: full")
    assert capsys.readouterr().err == "paced: rank 1: step 3: full\n"
    with pytest.raises(OutOfMemory, match=r"^rank 1: step 3: full$"), ending_alone(first, 0, CPU):
        raise RuntimeError("Connection closed by peer")
    assert capsys.readouterr().err == ""  # the command shows it


def test_a_collective_that_breaks_for_another_reason_stays_what_it_is():
    import torch.distributed as dist

    with (
        pytest.raises(RuntimeError, match=r"^Connection closed"),
        ending_alone(Lead(0, 2, dist.HashStore()), 0, CPU),
    ):
        raise RuntimeError("Connection closed by peer")
