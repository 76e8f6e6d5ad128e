"""What a divergence gives back for a chunk, and the steps that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from paced_megatron.divergence.statistics import ModelStatistics, ShardChunk, Statistics


@dataclass(frozen=True)
class Evaluated:
    """A divergence at the n tokens of a chunk."""

    value: Tensor
    """[n], in nats, over the whole vocabulary"""
    logit_gradient: Callable[[Tensor], Tensor]
    """weights [n] -> [n, V] weight x dD / d(z_S / temperature) on this shard, in the chunk's own buffers; to
    be called once"""


def scale(shard_max: Tensor, total: ModelStatistics, weights: Tensor | float = 1.0) -> Tensor:
    """[n, 1]: what turns exp(z - the shard's max) into weight x probability."""
    return (weights * (shard_max - total.max).exp() / total.sum_exp).unsqueeze(-1)


def probabilities(chunk: ShardChunk, total: Statistics) -> tuple[Tensor, Tensor, Tensor]:
    """(p_S, p_T, u = log p_T - log p_S), [n, V] each, in the chunk's buffers, which are spent."""
    shift = (chunk.teacher_max - total.teacher.max) - (chunk.student_max - total.student.max)
    return (
        chunk.student_exp.mul_(scale(chunk.student_max, total.student)),
        chunk.teacher_exp.mul_(scale(chunk.teacher_max, total.teacher)),
        chunk.gap.add_((shift - total.log_sum_gap).unsqueeze(-1)),
    )
