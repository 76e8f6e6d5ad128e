"""The gradient's norm without Megatron's stand-in, which asks for each parameter's by itself."""

from __future__ import annotations

import pytest
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm

from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.grad_norm import l2_norm, norm_on_device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_megatron_s_to_the_bit(dtype):
    generator = torch.Generator().manual_seed(5)
    gradients = [
        torch.randn(shape, generator=generator, dtype=torch.float64).mul_(scale).to(dtype)
        for shape, scale in [((3, 5), 1.0), ((7,), 1e-4), ((2, 3, 4), 30.0), ((1,), 0.0)]
    ]
    flag = torch.zeros(1, dtype=torch.int)
    with megatron_on_cpu():
        theirs, _ = local_multi_tensor_l2_norm(2048 * 32, flag, [gradients], False)
    ours, nothing = l2_norm(2048 * 32, flag, [gradients], False)
    assert nothing is None
    assert (ours.shape, ours.dtype) == ((1,), torch.float32)
    assert torch.equal(ours, theirs)


def test_only_the_stand_in_is_replaced_and_only_meanwhile(monkeypatch):
    before = clip_grads.l2_norm_impl
    with norm_on_device():
        assert (clip_grads.l2_norm_impl is l2_norm) == (before is local_multi_tensor_l2_norm)
    assert clip_grads.l2_norm_impl is before
    faster = object()
    monkeypatch.setattr(clip_grads, "l2_norm_impl", faster)
    with norm_on_device():
        assert clip_grads.l2_norm_impl is faster
