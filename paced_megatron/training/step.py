"""The distillation step: the gradient of the weighted divergence between a teacher and a student, both in
Megatron-Core.

The teacher runs over all of the step's micro-batches first; of its hidden states only those at the response's
positions are kept. Then Megatron's own schedule runs the student forward and backward, with the fused
divergence as its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.divergence import DivergenceStatistics, weighted_divergence
from paced_megatron.runtime.transfer import to_device
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.finite import LossNotFinite, problems_not_finite
from paced_megatron.training.forward import all_tokens, at_positions, run_schedule, stage_output
from paced_megatron.training.head import current_head, main_grad, with_head
from paced_megatron.training.objective import Objective
from paced_megatron.training.student import Student
from paced_megatron.training.teachers import Teaching
from paced_megatron.training.timers import PhaseTimers
from paced_megatron.training.token_pass import Taught, measured, weighed_alone, weighed_by_batch


@dataclass(frozen=True)
class StepSums:
    """Sums over the whole global batch, the same on every rank.

    Attributes:
        loss: the loss itself (its denominator is inside the coefficients).
        tokens: response tokens.
        kept: those that count: neither the weight of their problem nor their own is 0.
        divergence, student_entropy, teacher_entropy: sums over these tokens, unweighted, in nats.
    """

    loss: float
    tokens: float
    kept: float
    divergence: float
    student_entropy: float
    teacher_entropy: float


def accumulate_gradient(
    student: Student,
    teacher: Teaching,
    batches: Sequence[Sequence[MicroBatch]],
    objective: Objective,
    timers: PhaseTimers | None = None,
) -> StepSums:
    """Add the gradient of the loss over `batches` to the student's `main_grad` buffers, reduced over all
    ranks.

    Args:
        student: its gradient buffers zeroed by the caller.
        teacher: no gradient is kept for it.
        batches: for every replica of the student its micro-batches, at least one each and the same number,
            the same on all ranks.

    Raises:
        LossNotFinite: on all ranks alike.
    """
    groups, device = student.groups, student.device
    timers = timers or PhaseTimers(device)
    mine = batches[groups.dp.rank()]
    with timers.phase("teacher"):
        taught = [Taught(*pair) for pair in zip(mine, teacher.hidden_states(batches), strict=True)]
    token_weights = objective.token_weights
    if token_weights is not None and token_weights.whole_batch:
        taught = weighed_by_batch(student, teacher.head, batches, taught, objective, token_weights, timers)

    def forward_step(
        pending: Iterator[Taught], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        item = next(pending)
        output = stage_output(model, item.micro_batch.student, device)
        return output, timers.timed("loss", partial(_weighted_loss, student, teacher.head, item, objective))

    with timers.passes(), student.finalizing(lambda finalize: timers.timed("communication", finalize)):
        sums = run_schedule(
            forward_step,
            taught,
            student.wrapped,
            groups,
            tokens_shape=mine[0].student.shape,
        )
    total = sum(sums, torch.zeros(len(fields(StepSums)), dtype=torch.float64, device=device))
    for group in (groups.dp, groups.pp):  # only the last pipeline stage has any
        dist.all_reduce(total, group=group)
    reduced = StepSums(*total.tolist())
    # Token weights may have left out the very tokens that are not finite.
    loss = reduced.loss if math.isfinite(reduced.divergence) else math.nan
    if not math.isfinite(loss):
        raise LossNotFinite(loss, problems_not_finite(sums, [one.problem_ids for one in mine]))
    return reduced


def _weighted_loss(
    student: Student, teacher_head: Tensor | None, item: Taught, objective: Objective, output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's loss function: the loss, its count of tokens (unused, see student.py), and what is to be
    logged."""
    assert teacher_head is not None
    output = all_tokens(output, student.sequence_parallel, student.groups.tp)
    hidden = at_positions(output, item.micro_batch.student)
    token_weights = objective.token_weights
    if token_weights is not None and not token_weights.whole_batch:
        item = weighed_alone(item, measured(student, teacher_head, item, objective, hidden), token_weights)
    coefficients, labels = item.micro_batch.coefficients, item.micro_batch.labels
    indices = None
    if token_weights is not None:  # the statistics have told of all tokens; the loss needs those that count
        indices = coefficients.nonzero().flatten()
        coefficients, labels = coefficients[indices], labels[indices]
    assert item.teacher_hidden is not None
    head = current_head(student.chunks[-1])
    result = weighted_divergence(
        hidden,
        head,
        item.teacher_hidden,
        teacher_head,
        to_device(coefficients.to(torch.promote_types(hidden.dtype, torch.float32)), hidden.device),
        labels=to_device(labels, hidden.device),
        token_indices=indices,
        group=student.groups.tp,
        compute_grad=True,
        main_grad=main_grad(head),
        **objective.of_divergence,
    )
    no_count = torch.zeros((), dtype=torch.int, device=hidden.device)
    kept = int(coefficients.count_nonzero())
    return with_head(result.loss, head), no_count, _sums(result.loss, item.statistics or result, kept)


def _sums(loss: Tensor, of: DivergenceStatistics, kept: int) -> Tensor:
    counts = (torch.full_like(loss, count).detach() for count in (of.divergence.numel(), kept))
    per_token = (of.divergence, of.student_entropy, of.teacher_entropy)
    return torch.stack(
        [loss.detach(), *counts, *(values.sum().to(loss.dtype) for values in per_token)]
    ).double()
