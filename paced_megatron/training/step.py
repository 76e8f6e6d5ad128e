"""The distillation step: the gradient of the weighted divergence between a teacher and a student, both in
Megatron-Core.

The teacher runs over all of the step's micro-batches first; of its hidden states only those at the response's
positions are kept. Then Megatron's own schedule runs the student forward and backward, with the fused
divergence as its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.divergence import DivergenceResult, weighted_divergence
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.forward import at_positions, run_schedule, stage_output
from paced_megatron.training.student import Student
from paced_megatron.training.teacher import Teacher


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
    student: Student, teacher: Teacher, batches: Sequence[Sequence[MicroBatch]], objective: Objective
) -> StepSums:
    """Add the gradient of the loss over `batches` to the student's `main_grad` buffers, reduced over all
    ranks.

    Args:
        student: its gradient buffers zeroed by the caller.
        teacher: no gradient is kept for it.
        batches: for every replica of the student its micro-batches, at least one each and the same number,
            the same on all ranks.
    """
    groups, device = student.groups, student.device
    mine = batches[groups.dp.rank()]
    taught = teacher.hidden_states(batches)

    def forward_step(
        pending: Iterator[tuple[MicroBatch, Tensor | None]], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        micro_batch, teacher_hidden = next(pending)
        output = stage_output(model, micro_batch.student, device)
        loss = partial(_weighted_loss, student, teacher.head, micro_batch, teacher_hidden, objective)
        return output, loss

    sums = run_schedule(
        forward_step,
        list(zip(mine, taught, strict=True)),
        student.wrapped,
        groups,
        tokens_shape=tuple(mine[0].student.tokens.shape),
    )
    total = torch.stack(sums).sum(dim=0)
    dist.all_reduce(total, group=groups.dp)
    return StepSums(*total.tolist())


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
    assert student.head is not None and teacher_head is not None and teacher_hidden is not None
    student_hidden = at_positions(output, micro_batch.student)
    accurate = torch.promote_types(student_hidden.dtype, torch.float32)
    result = weighted_divergence(
        student_hidden,
        student.head,
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
        workspace_mb=objective.workspace_mb,
    )
    return result.loss, torch.zeros((), dtype=torch.int, device=student_hidden.device), _sums(result)


def _sums(result: DivergenceResult) -> Tensor:
    tokens = torch.full_like(result.loss, result.divergence.numel())
    per_token = (result.divergence, result.student_entropy, result.teacher_entropy)
    return torch.stack(
        [result.loss.detach(), tokens.detach(), *(values.sum().to(tokens.dtype) for values in per_token)]
    ).double()
