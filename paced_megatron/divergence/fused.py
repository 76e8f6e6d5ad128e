"""The fused weighted divergence: value, by-products and gradients in one walk over chunks of tokens.

The gradients are made while a chunk's logits are at hand, so that the heads are multiplied four times instead
of six and the backward pass is a multiplication by the upstream gradient. All collectives happen in the
forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from paced_megatron.divergence.checks import check_main_grad
from paced_megatron.divergence.prepare import prepare
from paced_megatron.divergence.result import DivergenceResult, DivergenceStatistics
from paced_megatron.divergence.walk import Gradients


def weighted_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
    *,
    divergence: str = "forward_kl",
    parameter: float | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    vocab_size: int,
    labels: Tensor | None = None,
    token_indices: Tensor | None = None,
    group: ProcessGroup | None = None,
    sequence_parallel: bool = False,
    compute_grad: bool,
    main_grad: Tensor | None = None,
    workspace_mb: float | None = None,
    kernels: str = "auto",
) -> DivergenceResult:
    """sum_m weights_m D(p_S, p_T) at token token_indices_m, p = softmax(z / temperature) over vocab_size ids.

    student_hidden [N, H_s], teacher_hidden [N, H_t]: final hidden states, equal on all ranks of the group;
        under sequence_parallel this rank's [N / ranks, H] slice along the tokens, in rank order.
    student_head [V_r, H_s]: rank r's rows, ids r * V_r onwards, V_r the same on all ranks.
    group: the tensor-parallel ranks; None is one process that holds whole heads.
    teacher_head [>= real rows of this rank, H_t]: cut at the student's boundaries, whatever the teacher's own
        layout. Rows from vocab_size on are padding on either side, and never looked at.
    parameter: the divergence's number in (0, 1): beta of jsd, skew of skew_forward_kl and skew_reverse_kl, mu
        of akl (None: 0.5). The KLs take none.
    temperature_squared: multiply loss and gradients with temperature ** 2, so that a gradient keeps its size
        when the temperature rises. The per-token divergence stays as it is.
    weights [M], float32 or float64, signed, detached: everything the loss is multiplied with, 1/Z included.
    labels [M], int64: the text's tokens, for the log-probabilities; an id outside the vocabulary gives NaN.
    token_indices [M], int64, on the CPU (so that nothing waits for a device): the tokens to look at, in any
        order, among 0 .. N - 1 (N of the whole sequence); None: all N in order. M and all that is [M] are
        equal on all ranks of the group. M may be 0: the loss and its gradients are then 0.
    compute_grad: make the gradients. False gives the same numbers at half the price, and a loss without a
        grad_fn. It is an argument because inside a Function grad mode is always off. The teacher never gets a
        gradient; a frozen student head or hidden state (requires_grad False) costs none.
    main_grad [V_r, H_s], float32 or float64: where the head's gradient is added in the backward pass, times
        whatever gradient comes in from upstream; autograd then hands the head none. Without it the head's
        gradient comes back in the head's dtype. Between forward and backward one [V_r, H_s] gradient is held
        either way.
    workspace_mb: MB (2**20 bytes) for all that grows with tokens x vocabulary. Chunks are cut by it. None: as
        much as the head's gradient takes (V_r x H_s numbers), at least 256, on a GPU at least what 1024
        tokens need; with less, time goes into reading the heads once more for every chunk
        (docs/performance.md).
    kernels: of the vocabulary part. "triton" has one pass over a chunk's logits to measure them and one to
        write their gradient; "torch" has several, serves every divergence and dtype, and is the reference;
        "auto" is Triton on a GPU where it can be, with a warning where only the machine stands against it.

    Everything is computed in float32, or float64 where one of the four inputs is: logits of bf16 hidden
    states are never rounded to bf16, which spoils the gradient by 33 % at 0.0066 nats per token. Where all
    four inputs are bf16 on a GPU (compute capability 8.0), the products are bf16 tensor cores' with float32
    results, and the logit gradient alone is rounded to bf16 before them: 0.24 % of the hidden gradient.
    The hidden gradient is summed over chunks and ranks in that dtype, then cast to the hidden states'
    (float16: after the factor from upstream, which may be a GradScaler's).
    Formulas: docs/method.md, 2.

    Raises ValueError, before any collective, for what does not fit: a shape, dtype or device, an unknown
    divergence, a parameter missing, not taken or outside (0, 1), a temperature <= 0, a
    vocab_size beyond the shards, indices out of range or not on the CPU, a rank not in the group,
    kernels that cannot be had.
    """
    check_main_grad(main_grad, student_head)
    walk = prepare(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        weights=weights,
        divergence=divergence,
        parameter=parameter,
        temperature=temperature,
        vocab_size=vocab_size,
        labels=labels,
        token_indices=token_indices,
        group=group,
        sequence_parallel=sequence_parallel,
        workspace_mb=workspace_mb,
        kernels=kernels,
    )
    with torch.no_grad():
        tokens, shard = walk.tokens, walk.heads.shard
        scaled = weights.double() * (temperature**2 if temperature_squared else 1.0)
        gradients = None
        if compute_grad:
            gradients = Gradients.of(scaled, student_hidden, student_head, tokens, shard)
        statistics = DivergenceStatistics(*replace(walk, gradients=gradients).run())
        loss = (scaled * statistics.divergence.double()).sum().to(tokens.dtype)
        if gradients is None:
            return DivergenceResult(**vars(statistics), loss=loss)

        hidden_grad, head_grad = gradients.hidden, gradients.head
        if hidden_grad is not None:
            hidden_grad = _held(
                shard.reduce_tokens(hidden_grad, scatter=sequence_parallel), student_hidden.dtype
            )
        if head_grad is not None:
            head_grad = _held(head_grad, (student_head if main_grad is None else main_grad).dtype)
    loss = _GradientsAtHand.apply(student_hidden, student_head, loss, hidden_grad, head_grad, main_grad)
    return DivergenceResult(**vars(statistics), loss=loss)


def divergence_statistics(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    divergence: str = "forward_kl",
    parameter: float | None = None,
    temperature: float = 1.0,
    vocab_size: int,
    labels: Tensor | None = None,
    token_indices: Tensor | None = None,
    group: ProcessGroup | None = None,
    sequence_parallel: bool = False,
    workspace_mb: float | None = None,
    kernels: str = "auto",
) -> DivergenceStatistics:
    """The per-token numbers of `weighted_divergence` and nothing else: no weights, no loss, no gradients.

    For methods that weigh a token by what the two models think of it. Arguments, dtypes, collectives and
    errors are `weighted_divergence`'s, and the numbers are its own to the last digit.
    """
    walk = prepare(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        weights=None,
        divergence=divergence,
        parameter=parameter,
        temperature=temperature,
        vocab_size=vocab_size,
        labels=labels,
        token_indices=token_indices,
        group=group,
        sequence_parallel=sequence_parallel,
        workspace_mb=workspace_mb,
        kernels=kernels,
    )
    with torch.no_grad():
        return DivergenceStatistics(*walk.run())


class _GradientsAtHand(torch.autograd.Function):
    """The loss, with gradients made beside it: backward multiplies them by the upstream gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        student_head: Tensor,
        loss: Tensor,
        hidden_grad: Tensor | None,
        head_grad: Tensor | None,
        main_grad: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.dtypes = student_hidden.dtype, student_head.dtype
        ctx.main_grad = main_grad
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        to_hidden = None if hidden_grad is None else _times(hidden_grad, upstream, ctx.dtypes[0])
        to_head = None
        if head_grad is not None and ctx.main_grad is not None:
            ctx.main_grad.addcmul_(head_grad, upstream.to(head_grad.dtype))  # no second [V_r, H_s] tensor
        elif head_grad is not None:
            to_head = _times(head_grad, upstream, ctx.dtypes[1])
        return to_hidden, to_head, None, None, None, None


def _held(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """In the dtype that it will have, from forward to backward; but float16 would lose the small numbers that
    an upstream factor (torch's GradScaler) is there to save."""
    return gradient if dtype == torch.float16 else gradient.to(dtype)


def _times(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """The product; where upstream is 1, on a CPU, the gradient itself, for a second [V_r, H_s] tensor costs.

    It may be handed out: it is a saved tensor, so that a second backward pass raises if somebody has written
    to it since, and `.grad` takes a copy of it where the graph is retained. A device would have to be waited
    for to know.
    """
    if upstream.device.type == "cpu" and upstream == 1:
        return gradient.to(dtype)
    return (gradient * upstream).to(dtype)
