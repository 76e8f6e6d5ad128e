"""The divergences, a row each: its value and its logit gradient from the statistics of the whole vocabulary.

To add one: a row here, its definition in `reference.REFERENCES`, and its name in the tests' table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from paced_megatron.divergence.statistics import ModelStatistics, ShardChunk, Statistics


@dataclass(frozen=True)
class Divergence:
    """D(p_S, p_T) of two distributions over the vocabulary; gradients for the student alone."""

    value: Callable[[Statistics], Tensor]
    """-> [n], in nats"""
    logit_gradient: Callable[[ShardChunk, Statistics, Tensor], Tensor]
    """(chunk, statistics, weights [n]) -> [n, V] weight x dD / d(z_S / temperature) on this shard, in the
    chunk's own buffers, which are spent after it"""


def _forward_kl(total: Statistics) -> Tensor:
    return total.teacher.mean_gap - total.log_sum_gap


def _forward_kl_gradient(chunk: ShardChunk, total: Statistics, weights: Tensor) -> Tensor:
    """w (p_S - p_T), docs/method.md, 2."""
    student = chunk.student_exp.mul_(_scale(chunk.student_max, total.student, weights))
    return student.sub_(chunk.teacher_exp.mul_(_scale(chunk.teacher_max, total.teacher, weights)))


def _reverse_kl(total: Statistics) -> Tensor:
    return total.log_sum_gap - total.student.mean_gap


def _reverse_kl_gradient(chunk: ShardChunk, total: Statistics, weights: Tensor) -> Tensor:
    """w p_S (log p_S - log p_T - KL), docs/method.md, 2; without the normalisers w p_S (E_S[gap] - gap)."""
    gap_shift = (chunk.teacher_max - total.teacher.max) - (chunk.student_max - total.student.max)
    below_mean = chunk.gap.sub_((total.student.mean_gap - gap_shift).unsqueeze(-1))
    student = chunk.student_exp.mul_(_scale(chunk.student_max, total.student, -weights))
    return student.mul_(below_mean)


def _scale(shard_max: Tensor, total: ModelStatistics, weights: Tensor) -> Tensor:
    """[n, 1]: what turns exp(z - the shard's max) into weight x probability."""
    return (weights * (shard_max - total.max).exp() / total.sum_exp).unsqueeze(-1)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": Divergence(_forward_kl, _forward_kl_gradient),
    "reverse_kl": Divergence(_reverse_kl, _reverse_kl_gradient),
}
