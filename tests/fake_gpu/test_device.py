"""The GPU that isn't there notices what it is there to notice."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from fake_gpu.device import fake_gpu
from fake_gpu.record import HostTensorSent, MixedDevices
from fake_gpu.steps import places, rank_on_gpu
from paced_megatron.runtime.transfer import to_device

CUDA = torch.device("cuda", 0)


def test_tensors_say_that_they_are_on_the_gpu_also_in_the_backward_pass():
    seen = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            seen.append((gradient.device, torch.zeros(2, device="cuda").is_cuda))
            return gradient * 2

    with fake_gpu():
        x = torch.ones(3, 2, device="cuda", requires_grad=True)
        Looks.apply(x).sum().backward()
        assert (x.device, x.is_cuda, x.type()) == (CUDA, True, "torch.cuda.FloatTensor")
        assert seen == [(CUDA, True)]
        assert torch.ones(2).device.type == "cpu"
    assert torch.ones(2).device.type == "cpu"


def test_an_operation_on_tensors_of_both_raises_but_for_a_number():
    with fake_gpu():
        there = torch.zeros(3, device="cuda")
        with pytest.raises(MixedDevices, match="add"):
            there + torch.ones(3)
        assert (there + torch.tensor(1.0)).is_cuda


@pytest.mark.parametrize(
    ("wait", "act"),
    [
        ("read", lambda x: x.sum().item()),
        ("read", lambda x: float(x[0])),
        ("read", lambda x: x.tolist()),
        ("read", lambda x: x.cpu()),
        ("read", lambda x: bool((x > 0).all())),
        ("read", lambda x: torch.equal(x, x)),
        ("read", lambda x: torch.zeros(3).copy_(x)),
        ("read", lambda x: torch.tensor([x[0]])),
        ("write", lambda x: torch.zeros(3).to("cuda")),
        ("write", lambda x: torch.zeros(3).cuda()),
        ("write", lambda x: torch.tensor([1.0, 2.0], device="cuda")),
        ("write", lambda x: x.copy_(torch.zeros(3))),
        ("write", lambda x: x[torch.tensor([0, 2])]),
        ("synchronize", lambda x: torch.cuda.synchronize()),
        ("synchronize", lambda x: torch.cuda.Event().synchronize()),
    ],
)
def test_each_kind_of_wait_is_noted(wait, act):
    with fake_gpu() as gpu:
        x = torch.zeros(3, device="cuda")
        act(x)
        assert [one.kind for one in gpu.waits] == [wait]


def test_what_goes_in_the_stream_is_no_wait():
    with fake_gpu() as gpu:
        x = torch.zeros(3, device="cuda")
        x[1:] = 2.0
        x[x > 0] = 0.0
        x[torch.tensor([0, 2]).pin_memory().to("cuda", non_blocking=True)] += x.sum()
        torch.full_like(x, 3.0).index_select(0, to_device(torch.tensor([1]), CUDA))
        assert not gpu.waits
        assert not gpu.pageable


@pytest.mark.parametrize("act", [lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.unique()])
def test_a_size_that_only_the_device_knows_raises(act):
    with fake_gpu(), pytest.raises(RuntimeError, match="waits for the device"):
        act(torch.zeros(3, device="cuda"))


def test_memory_that_is_not_pinned_is_noted_with_its_sender():
    with fake_gpu() as gpu:
        torch.zeros(3).to("cuda", non_blocking=True)
        assert len(gpu.pageable) == 1
        to_device(torch.zeros(3), CUDA)
        assert len(gpu.pageable) == 1


def test_a_collective_of_a_host_tensor_raises_as_nccl_would():
    with rank_on_gpu(0, 2) as gpu:
        dist.all_reduce(torch.zeros(3, device="cuda"))
        dist.broadcast(torch.zeros(3, device="cuda"), src=0)
        with pytest.raises(HostTensorSent, match="allreduce_"):
            dist.all_reduce(torch.zeros(3))
        with pytest.raises(HostTensorSent, match="send"):
            dist.send(torch.zeros(3), dst=1)
        assert gpu.collectives["allreduce_"] == 2


def test_bytes_are_counted_while_somebody_holds_them():
    with fake_gpu() as gpu:
        kept = torch.zeros(256, device="cuda")
        (kept + 1).sum()
        assert (gpu.live, gpu.peak) == (1024, 2048 + 4)
        del kept
        assert gpu.live == 0


def test_small_whole_numbers_from_the_host_can_be_read_back():
    with fake_gpu() as gpu:
        cuts = torch.tensor([0, 5, 12], dtype=torch.int32).to("cuda")
        assert (cuts[1:] - cuts[:-1]).tolist() == [5, 7]
        cuts.add_(torch.ones_like(cuts))
        assert cuts.tolist() == [1, 1, 1]  # nobody knows
        assert places(gpu)
