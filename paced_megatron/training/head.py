"""The student's head, whose own forward is never called: the divergence multiplies with it, and adds its
gradient straight into Megatron's `main_grad`.

So what Megatron hangs on that forward and on autograd is done here: the wait for a weight that is still being
gathered, and the sign that the gradient is ready to be reduced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paced_megatron.models.gpt import HiddenStatesModel


def current_head(chunk: HiddenStatesModel) -> Tensor:
    """The head's weight, up to date: under overlap_param_gather a pre-hook of the layer waits for it.

    Where it is the embedding of the same stage, that layer's own forward has waited.
    """
    if chunk.output_layer.weight is not None:
        for hook in chunk.output_layer._forward_pre_hooks.values():
            hook(chunk.output_layer, ())
    return chunk.head


def main_grad(head: Tensor) -> Tensor:
    """Where Megatron's wrapper gathers the head's gradient, float32 or float64, [V_r, H]."""
    return head.main_grad  # type: ignore[attr-defined]


class _AddedToMainGrad(torch.autograd.Function):
    """The loss, with the head in its graph: backward hands the head the dummy that Megatron's own fused
    matmul hands it (tensor_parallel/layers.py, gradient_accumulation_fusion)."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, head: Tensor) -> Tensor:
        ctx.head = head
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        head: Any = ctx.head
        # The wrapper's hook then skips `.grad`, whose numbers nobody reads; but for a tied weight it adds it,
        # for the embedding's part comes that way. So the dummy is 0 there.
        head.grad_added_to_main_grad = True
        tied = getattr(head, "zero_out_wgrad", False)
        return upstream, torch.zeros_like(head) if tied else torch.empty_like(head)


def with_head(loss: Tensor, head: Tensor) -> Tensor:
    """`loss`, whose backward also tells Megatron's wrapper that the head's gradient is in `main_grad`."""
    return _AddedToMainGrad.apply(loss, head)
