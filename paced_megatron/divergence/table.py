"""The divergences, a row each: value and logit gradient from a chunk and the whole vocabulary's statistics.

To add one: a function and a row here, its definition in `reference.REFERENCES`, and its name in the tests'
table; kernels=False, until kernels/ can do it. All collectives of a divergence happen when it is evaluated,
none when its gradient is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from paced_megatron.divergence.adaptive import adaptive_kl
from paced_megatron.divergence.evaluated import Evaluated, scale
from paced_megatron.divergence.mixtures import jsd, skew_forward_kl, skew_reverse_kl
from paced_megatron.divergence.statistics import ShardChunk, Statistics
from paced_megatron.divergence.vocabulary import VocabularyShard


@dataclass(frozen=True)
class Divergence:
    """D(p_S, p_T) of two distributions over the vocabulary; gradients for the student alone."""

    evaluate: Callable[[ShardChunk, Statistics, VocabularyShard, float | None], Evaluated]
    """(chunk, statistics, shard, parameter); the chunk's buffers are spent by it or by the gradient"""
    parameter: str | None = None
    """what its number in (0, 1) is called; None: it takes none"""
    default: float | None = None
    """the parameter's; None: it has to be given"""
    buffers: int = 4
    """of [n, V] that are alive at once, those of `measure` included, with torch's operations"""
    kernels: bool = True
    """whether there are Triton kernels for it (kernels/)"""


def _forward_kl(
    chunk: ShardChunk, total: Statistics, shard: VocabularyShard, parameter: float | None
) -> Evaluated:
    """Gradient: w (p_S - p_T), docs/method.md, 2."""

    def logit_gradient(weights: Tensor) -> Tensor:
        student = chunk.student_exp.mul_(scale(chunk.student_max, total.student, weights))
        return student.sub_(chunk.teacher_exp.mul_(scale(chunk.teacher_max, total.teacher, weights)))

    return Evaluated(total.forward_kl, logit_gradient)


def _reverse_kl(
    chunk: ShardChunk, total: Statistics, shard: VocabularyShard, parameter: float | None
) -> Evaluated:
    """Gradient: w p_S (log p_S - log p_T - KL), docs/method.md, 2; without the normalisers
    w p_S (E_S[gap] - gap)."""

    def logit_gradient(weights: Tensor) -> Tensor:
        gap_shift = (chunk.teacher_max - total.teacher.max) - (chunk.student_max - total.student.max)
        below_mean = chunk.gap.sub_((total.student.mean_gap - gap_shift).unsqueeze(-1))
        student = chunk.student_exp.mul_(scale(chunk.student_max, total.student, -weights))
        return student.mul_(below_mean)

    return Evaluated(total.reverse_kl, logit_gradient)


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": Divergence(_forward_kl),
    "reverse_kl": Divergence(_reverse_kl),
    "jsd": Divergence(jsd, "beta"),
    "skew_forward_kl": Divergence(skew_forward_kl, "skew"),
    "skew_reverse_kl": Divergence(skew_reverse_kl, "skew"),
    "akl": Divergence(adaptive_kl, "mu", default=0.5, buffers=5, kernels=False),
}
