"""The vocabulary part of the walk with Triton kernels, as `torch_part.TorchPart` is with torch's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.divergence.kernels.gradient import write_gradient
from paced_megatron.divergence.kernels.measure import measure
from paced_megatron.divergence.kernels.mixtures import mixture_sums
from paced_megatron.divergence.statistics import ModelStatistics, Statistics, label_logit
from paced_megatron.divergence.torch_part import BlockResult, Measured
from paced_megatron.divergence.vocabulary import VocabularyShard


@dataclass(frozen=True)
class TritonPart:
    """float32 logits; the gradient in float32 or bf16."""

    divergence: str
    parameter: float | None
    shard: VocabularyShard
    temperature: float
    """that the logits still have to be divided by"""

    def measure(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Measured:
        logits = student_logits, teacher_logits
        sums, maxima = measure(*logits, self.temperature, labels=labels is not None)
        if labels is not None:
            for column, z in zip((4, 9), logits, strict=True):
                sums[:, column] = label_logit(z, self.shard, labels) / self.temperature
        block = _Block(self, student_logits, teacher_logits, maxima, sums[:, 0], sums[:, sums.shape[1] // 2])
        return Measured(sums, block.evaluate)


@dataclass(frozen=True)
class _Block:
    """n measured tokens, their logits still as they were."""

    part: TritonPart
    student_logits: Tensor
    teacher_logits: Tensor
    maxima: Tensor
    """[2, n] of the shard's logits"""
    student_max: Tensor
    """[n] of the shard's logits / temperature, as the next"""
    teacher_max: Tensor

    def evaluate(self, total: Statistics) -> BlockResult:
        divergence = self.part.divergence
        student, teacher = (
            self._scale(self.student_max, total.student),
            self._scale(self.teacher_max, total.teacher),
        )
        # From a gap to this shard's maxima to one to the vocabulary's.
        shift = (self.teacher_max - total.teacher.max) - (self.student_max - total.student.max)
        if divergence == "forward_kl":
            return BlockResult(
                total.forward_kl, lambda w, out: self._write(out, w * student, w * teacher, shift, shift)
            )
        if divergence == "reverse_kl":
            mean = total.student.mean_gap
            return BlockResult(
                total.reverse_kl, lambda w, out: self._write(out, -w * student, teacher, shift, mean)
            )
        shift = shift - total.log_sum_gap
        value, mean, factor = self._mixture(student, teacher, shift)
        return BlockResult(value, lambda w, out: self._write(out, factor * w * student, teacher, shift, mean))

    def _mixture(self, student: Tensor, teacher: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, float]:
        """(value [n], E_S[g] [n], the factor that g is short of)."""
        part, share = self.part, self._share
        known = self._known(student, teacher, shift, shift)
        sums = mixture_sums(
            part.divergence, share, self.student_logits, self.teacher_logits, known, part.temperature
        )
        value, mean = part.shard.sum(sums).unbind(-1)
        if part.divergence == "jsd":
            return share * value + (1 - share) * mean, mean, 1 - share
        return value, mean, 1 - share if part.divergence == "skew_forward_kl" else 1.0

    def _write(self, out: Tensor, student: Tensor, teacher: Tensor, shift: Tensor, mean: Tensor) -> None:
        part = self.part
        known = self._known(student, teacher, shift, mean)
        logits = self.student_logits, self.teacher_logits
        write_gradient(part.divergence, self._share, *logits, known, part.temperature, out)

    def _known(self, student: Tensor, teacher: Tensor, shift: Tensor, mean: Tensor) -> Tensor:
        """[n, 6], what the kernels know of a row: both maxima; the factors of exp((z - max) / temperature) of
        student and teacher; what is added to a gap; what is subtracted from g."""
        return torch.stack([*self.maxima, student, teacher, shift, mean], dim=-1)

    @staticmethod
    def _scale(shard_max: Tensor, total: ModelStatistics) -> Tensor:
        """[n]: from exp to the shard's maximum to probability."""
        return (shard_max - total.max).exp() / total.sum_exp

    @property
    def _share(self) -> float:
        return 0.0 if self.part.parameter is None else self.part.parameter
