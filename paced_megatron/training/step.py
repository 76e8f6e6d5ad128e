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

from paced_megatron.divergence import DivergenceResult, weighted_divergence
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.finite import LossNotFinite, problems_not_finite
from paced_megatron.training.forward import all_tokens, at_positions, run_schedule, stage_output
from paced_megatron.training.head import current_head, main_grad, with_head
from paced_megatron.training.student import Student
from paced_megatron.training.teachers import Teaching
from paced_megatron.training.timers import PhaseTimers


@dataclass(frozen=True)
class Objective:
    """Which divergence with which parameter, over how many real entries of the vocabulary, at which
    temperature, in how much workspace."""

    divergence: str
    vocab_size: int
    parameter: float | None = None
    temperature: float = 1.0
    workspace_mb: float | None = None


@dataclass(frozen=True)
class StepSums:
    """Sums over the whole global batch, the same on every rank.

    Attributes:
        loss: the loss itself (its denominator is inside the coefficients).
        tokens: response tokens.
        divergence, student_entropy, teacher_entropy: sums over these tokens, unweighted, in nats.
    """

    loss: float
    tokens: float
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
    timers = timers or PhaseTimers()
    groups, device = student.groups, student.device
    mine = batches[groups.dp.rank()]
    with timers.phase("teacher"):
        taught = teacher.hidden_states(batches)

    def forward_step(
        pending: Iterator[tuple[MicroBatch, Tensor | None]], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        micro_batch, teacher_hidden = next(pending)
        output = stage_output(model, micro_batch.student, device)
        loss = partial(_weighted_loss, student, teacher.head, micro_batch, teacher_hidden, objective)
        return output, timers.timed("loss", loss)

    with timers.passes(), student.finalizing(lambda finalize: timers.timed("communication", finalize)):
        sums = run_schedule(
            forward_step,
            list(zip(mine, taught, strict=True)),
            student.wrapped,
            groups,
            tokens_shape=mine[0].student.shape,
        )
    total = sum(sums, torch.zeros(len(fields(StepSums)), dtype=torch.float64, device=device))
    for group in (groups.dp, groups.pp):  # only the last pipeline stage has any
        dist.all_reduce(total, group=group)
    reduced = StepSums(*total.tolist())
    if not math.isfinite(reduced.loss):
        raise LossNotFinite(reduced.loss, problems_not_finite(sums, [one.problem_ids for one in mine]))
    return reduced


def _weighted_loss(
    student: Student,
    teacher_head: Tensor | None,
    micro_batch: MicroBatch,
    teacher_hidden: Tensor | None,
    objective: Objective,
    output: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's loss function: the loss, its count of tokens (unused, see student.py), and what is to be
    logged."""
    assert teacher_head is not None and teacher_hidden is not None
    output = all_tokens(output, student.sequence_parallel, student.groups.tp)
    student_hidden = at_positions(output, micro_batch.student)
    accurate = torch.promote_types(student_hidden.dtype, torch.float32)
    head = current_head(student.chunks[-1])
    result = weighted_divergence(
        student_hidden,
        head,
        teacher_hidden,
        teacher_head,
        micro_batch.coefficients.to(student_hidden.device, accurate),
        divergence=objective.divergence,
        parameter=objective.parameter,
        temperature=objective.temperature,
        vocab_size=objective.vocab_size,
        labels=micro_batch.labels.to(student_hidden.device),
        group=student.groups.tp,
        compute_grad=True,
        main_grad=main_grad(head),
        workspace_mb=objective.workspace_mb,
    )
    no_count = torch.zeros((), dtype=torch.int, device=student_hidden.device)
    return with_head(result.loss, head), no_count, _sums(result)


def _sums(result: DivergenceResult) -> Tensor:
    tokens = torch.full_like(result.loss, result.divergence.numel())
    per_token = (result.divergence, result.student_entropy, result.teacher_entropy)
    return torch.stack(
        [result.loss.detach(), tokens.detach(), *(values.sum().to(tokens.dtype) for values in per_token)]
    ).double()
