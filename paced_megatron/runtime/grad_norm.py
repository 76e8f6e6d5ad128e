"""The gradient's norm, where neither Transformer Engine nor apex lends Megatron-Core its kernel for it.

Megatron-Core's own stand-in brings the norm of every parameter to the host by itself, and waits for the
device each time: a hundred times a step and more. Here they stay on the device until they are one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from megatron.core.optimizer import clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm
from torch import Tensor


def l2_norm(
    chunk_size: int, noop_flag: Tensor, tensor_lists: list[list[Tensor]], per_tensor: bool, *unused: Any
) -> tuple[Tensor, None]:
    """([1] float32, the L2 norm of all tensors as if they were one vector, on their device; None). Called as
    Megatron's local_multi_tensor_l2_norm, and for float32 and float64 equal to it to the bit."""
    norms = torch._foreach_norm([tensor for tensors in tensor_lists for tensor in tensors])
    return torch.stack(norms).float().norm().reshape(1), None


@contextmanager
def norm_on_device() -> Iterator[None]:
    """Within it Megatron-Core's optimizers take their norm so, but for those that have a faster kernel."""
    if clip_grads.l2_norm_impl is not local_multi_tensor_l2_norm:
        yield
        return
    with mock.patch.object(clip_grads, "l2_norm_impl", l2_norm):
        yield
