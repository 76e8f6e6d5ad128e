"""What a divergence gives back, the same for the reference and the fused one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DivergenceStatistics:
    """What is known about each of the M tokens.

    All are [M], detached, float32 (float64 where the inputs are), in the order of the tokens asked for, and
    equal on all ranks of the tensor-parallel group. Everything is in nats and at the divergence's
    temperature: the distributions are softmax(z / temperature) over the real vocabulary, the normalisers
    log sum exp(z / temperature).
    """

    divergence: Tensor
    """D of the two distributions, not weighted, and never multiplied with the temperature's square."""
    student_entropy: Tensor
    teacher_entropy: Tensor
    student_log_normalizer: Tensor
    teacher_log_normalizer: Tensor
    student_log_prob: Tensor | None = None
    """log p_S of the label; None without labels, NaN where the label is not in the real vocabulary."""
    teacher_log_prob: Tensor | None = None
    """log p_T of the label, likewise."""


@dataclass(frozen=True, kw_only=True)
class DivergenceResult(DivergenceStatistics):
    """A weighted sum to call backward on, and what is known about each of its tokens."""

    loss: Tensor
    """0-dim: sum over the tokens of weight x divergence, with temperature_squared times temperature ** 2."""
