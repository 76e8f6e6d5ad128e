"""The numbers per token that token weights are made of, and the micro-batches weighted by them.

Where a method needs the whole batch's numbers, the student runs once more, forward only, over all
micro-batches before the ordinary schedule; the numbers of all replicas come together on every rank, and each
rank weighs the whole batch alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.divergence import DivergenceStatistics, divergence_statistics
from paced_megatron.runtime.transfer import to_device
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.finite import LossNotFinite, problems_not_finite
from paced_megatron.training.forward import all_tokens, at_positions, run_schedule, stage_output
from paced_megatron.training.head import current_head
from paced_megatron.training.objective import Objective
from paced_megatron.training.student import Student
from paced_megatron.training.timers import PhaseTimers
from paced_megatron.training.token_weights import TokenStatistics, TokenWeights

# The fields of DivergenceStatistics that a TokenStatistics has too.
FIELDS = ("divergence", "student_entropy", "teacher_entropy", "student_log_prob", "teacher_log_prob")


@dataclass(frozen=True)
class Taught:
    """A micro-batch with what is known of its response's tokens before its forward and backward pass.

    Attributes:
        teacher_hidden: [M, H_t]; None where the student's head is not.
        statistics: where a statistics pass has been; [M].
    """

    micro_batch: MicroBatch
    teacher_hidden: Tensor | None
    statistics: DivergenceStatistics | None = None


def measured(
    student: Student, teacher_head: Tensor, item: Taught, objective: Objective, student_hidden: Tensor
) -> DivergenceStatistics:
    """The numbers of a micro-batch's tokens, [M] each, from the student's hidden states there [M, H_s]."""
    assert item.teacher_hidden is not None
    return divergence_statistics(
        student_hidden,
        current_head(student.chunks[-1]),
        item.teacher_hidden,
        teacher_head,
        labels=to_device(item.micro_batch.labels, student_hidden.device),
        group=student.groups.tp,
        **objective.of_divergence,
    )


def weighed_alone(item: Taught, statistics: DivergenceStatistics, weights: TokenWeights) -> Taught:
    """The micro-batch weighted by its own tokens' numbers."""
    table = _table(statistics).cpu()
    micro_batch = item.micro_batch
    if table.shape[1]:
        nu = weights.weigh(_statistics(table, _lengths(micro_batch)))
        micro_batch = _times(micro_batch, nu)
    return replace(item, micro_batch=micro_batch, statistics=statistics)


def weighed_by_batch(
    student: Student,
    teacher_head: Tensor | None,
    batches: Sequence[Sequence[MicroBatch]],
    mine: Sequence[Taught],
    objective: Objective,
    weights: TokenWeights,
    timers: PhaseTimers,
) -> list[Taught]:
    """This replica's micro-batches, weighted by the numbers of the whole global batch. A collective over all
    ranks of the student.

    Args:
        batches: of every replica, the same on all ranks.

    Raises:
        LossNotFinite: a number of some token is not; on all ranks alike.
    """
    found = _statistics_pass(student, teacher_head, mine, objective, timers)
    per_replica = [[one.labels.numel() for one in replica] for replica in batches]
    before = sum(sum(counts) for counts in per_replica[: student.groups.dp.rank()])
    table = torch.zeros(len(FIELDS), sum(map(sum, per_replica)), dtype=torch.float64, device=student.device)
    sizes = per_replica[student.groups.dp.rank()]
    if found:
        table[:, before : before + sum(sizes)] = torch.cat([_table(one) for one in found], dim=1)
    for group in (student.groups.dp, student.groups.pp):  # only the last pipeline stage has any
        dist.all_reduce(table, group=group)
    table = table.cpu()
    if not torch.isfinite(table).all():
        bad = problems_not_finite([_table(one) for one in found], [i.micro_batch.problem_ids for i in mine])
        raise LossNotFinite(float("nan"), bad)
    nu = _weigh(table, batches, weights)[before : before + sum(sizes)].split(sizes)
    weighed = [
        replace(item, micro_batch=_times(item.micro_batch, own)) for item, own in zip(mine, nu, strict=True)
    ]
    return (
        [replace(item, statistics=one) for item, one in zip(weighed, found, strict=True)]
        if found
        else weighed
    )


@torch.no_grad()
def _statistics_pass(
    student: Student,
    teacher_head: Tensor | None,
    mine: Sequence[Taught],
    objective: Objective,
    timers: PhaseTimers,
) -> list[DivergenceStatistics]:
    """One forward pass of the student over all its micro-batches: their numbers on the last stage, [] on the
    others. Of the hidden states nothing stays."""

    def forward_step(
        pending: Iterator[Taught], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[..., DivergenceStatistics]]:
        item = next(pending)
        rows = item.micro_batch.student

        def numbers(output: Tensor, non_loss_data: bool) -> DivergenceStatistics:
            assert teacher_head is not None
            output = all_tokens(output, student.sequence_parallel, student.groups.tp)
            return measured(student, teacher_head, item, objective, at_positions(output, rows))

        return stage_output(model, rows, student.device), timers.timed("loss", numbers)

    with timers.passes():
        return run_schedule(
            forward_step,
            mine,
            student.wrapped,
            student.groups,
            tokens_shape=mine[0].micro_batch.student.shape,
            forward_only=True,
            collect_non_loss_data=True,
        )


def _weigh(table: Tensor, batches: Sequence[Sequence[MicroBatch]], weights: TokenWeights) -> Tensor:
    """nu of all tokens of the batch, [N] float64. Texts of weight 0 are not looked at: leaving them out of
    the batch has to change nothing."""
    flat = [one for replica in batches for one in replica]
    lengths = [length for one in flat for length in _lengths(one)]
    weighted = [example.weight != 0 for one in flat for example in one.examples]
    counts = torch.tensor([length for length, counts in zip(lengths, weighted, strict=True) if counts])
    chosen = torch.tensor(weighted, dtype=torch.bool).repeat_interleave(torch.tensor(lengths))
    nu = torch.zeros(table.shape[1], dtype=torch.float64)
    if chosen.any():
        nu[chosen] = weights.weigh(_statistics(table[:, chosen], counts.tolist()))
    return nu


def _lengths(micro_batch: MicroBatch) -> list[int]:
    return [len(example.response) for example in micro_batch.examples]


def _table(statistics: DivergenceStatistics) -> Tensor:
    """[5, M] float64, in the order of FIELDS."""
    return torch.stack([getattr(statistics, name) for name in FIELDS]).double()


def _statistics(table: Tensor, lengths: Sequence[int]) -> TokenStatistics:
    return TokenStatistics(lengths=lengths, **dict(zip(FIELDS, table.unbind(), strict=True)))


def _times(micro_batch: MicroBatch, nu: Tensor) -> MicroBatch:
    return replace(micro_batch, coefficients=micro_batch.coefficients * nu)
