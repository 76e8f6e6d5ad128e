"""The vocabulary part of the walk: from both logits of some tokens to numbers and the gradient of the logits.

`VocabularyPart` is what the walk needs of it; `TorchPart` does it with torch's operations, a pass over [n, V]
for each, on any device and for every divergence. It is the reference of the one with Triton kernels
(`kernels/part.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from paced_megatron.divergence.statistics import Statistics, measure
from paced_megatron.divergence.table import Divergence
from paced_megatron.divergence.vocabulary import VocabularyShard


@dataclass(frozen=True)
class BlockResult:
    """A divergence at n tokens."""

    value: Tensor
    """[n], in nats, over the whole vocabulary"""
    write_gradient: Callable[[Tensor, Tensor], None]
    """(weights [n], out [n, V]): weight x dD / d(z_S / temperature) on this shard goes to out, rounded to its
    dtype; out may be the student's logits. To be called once"""


@dataclass(frozen=True)
class Measured:
    """What one shard knows of n tokens."""

    sums: Tensor
    """[n, 8 or 10]: what this shard gives to the all-gather, in the order of `statistics.measure`"""
    evaluate: Callable[[Statistics], BlockResult]
    """from the whole vocabulary's statistics; may take part in collectives"""


class VocabularyPart(Protocol):
    def measure(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Measured:
        """Both [n, V] logits, which may be overwritten until the gradient is written; labels [n]."""


@dataclass(frozen=True)
class TorchPart:
    row: Divergence
    parameter: float | None
    shard: VocabularyShard
    temperature: float
    """that the logits still have to be divided by"""

    def measure(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Measured:
        if self.temperature != 1:
            student_logits.div_(self.temperature)
            teacher_logits.div_(self.temperature)
        chunk = measure(student_logits, teacher_logits, self.shard, labels)

        def evaluate(total: Statistics) -> BlockResult:
            evaluated = self.row.evaluate(chunk, total, self.shard, self.parameter)
            return BlockResult(
                evaluated.value, lambda weights, out: _copy(evaluated.logit_gradient(weights), out)
            )

        return Measured(chunk.sums, evaluate)


def _copy(gradient: Tensor, out: Tensor) -> None:
    out.copy_(gradient)
