"""From the logits of one chunk on one shard to sums over the whole vocabulary, which divergences are made of.

Each shard boils its logits down to a handful of numbers per token, relative to its own maxima; one all-gather
brings the numbers of all shards together, and each rank combines them alike. Relative to the maxima so that
logits of +-1e4, or a constant by which the two models' logits differ, cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.divergence.vocabulary import VocabularyShard

# The maximum of a shard without real entries: finite, since -inf - -inf is NaN, and so low that its share is
# exactly 0.
NO_ENTRIES = -1e30


@dataclass(frozen=True)
class ShardChunk:
    """n tokens on one shard of V entries; the [n, V] buffers may be overwritten by whoever uses them last."""

    student_exp: Tensor
    """[n, V] exp(z_S - student_max)"""
    teacher_exp: Tensor
    """[n, V] exp(z_T - teacher_max)"""
    gap: Tensor
    """[n, V] (z_T - teacher_max) - (z_S - student_max)"""
    student_max: Tensor
    """[n] over this shard, as the next"""
    teacher_max: Tensor
    sums: Tensor
    """[n, 8 or 10]: what this shard gives to the all-gather, in the order of `measure`"""


@dataclass(frozen=True)
class ModelStatistics:
    """One model's softmax over the whole vocabulary, [n] each."""

    max: Tensor
    sum_exp: Tensor
    """sum exp(z - max), between 1 and V"""
    mean_logit: Tensor
    """E_p[z - max]"""
    mean_gap: Tensor
    """E_p[(z_T - max_T) - (z_S - max_S)], p this model's"""
    label_logit: Tensor | None

    @property
    def log_sum(self) -> Tensor:
        return self.sum_exp.log()

    @property
    def entropy(self) -> Tensor:
        return self.log_sum - self.mean_logit

    @property
    def log_normalizer(self) -> Tensor:
        return self.max + self.log_sum

    @property
    def label_log_prob(self) -> Tensor | None:
        return None if self.label_logit is None else self.label_logit - self.max - self.log_sum


@dataclass(frozen=True)
class Statistics:
    student: ModelStatistics
    teacher: ModelStatistics

    @property
    def log_sum_gap(self) -> Tensor:
        """[n]; log p_T(v) - log p_S(v) is the gap of v less this."""
        return self.teacher.log_sum - self.student.log_sum

    @property
    def forward_kl(self) -> Tensor:
        """[n]"""
        return self.teacher.mean_gap - self.log_sum_gap

    @property
    def reverse_kl(self) -> Tensor:
        """[n]"""
        return self.log_sum_gap - self.student.mean_gap


def measure(
    student_logits: Tensor, teacher_logits: Tensor, shard: VocabularyShard, labels: Tensor | None
) -> ShardChunk:
    """Both [n, V] logits (temperature applied), which are overwritten: four [n, V] buffers in all.

    Per token and model: max, sum e, sum e (z - max), sum e gap, and with labels the label's logit (0 where
    another shard holds it, NaN where none does).
    """
    student_label, teacher_label = (
        None if labels is None else label_logit(z, shard, labels) for z in (student_logits, teacher_logits)
    )
    student_max, teacher_max = _subtract_max(student_logits), _subtract_max(teacher_logits)
    teacher_exp = teacher_logits.exp()
    scratch = teacher_exp * teacher_logits
    teacher_mean = scratch.sum(-1)
    gap = teacher_logits.sub_(student_logits)
    teacher_gap = torch.mul(teacher_exp, gap, out=scratch).sum(-1)
    student_exp = torch.exp(student_logits, out=scratch)
    student_mean = student_logits.mul_(student_exp).sum(-1)
    student_gap = torch.mul(student_exp, gap, out=student_logits).sum(-1)

    student = [student_max, student_exp.sum(-1), student_mean, student_gap, student_label]
    teacher = [teacher_max, teacher_exp.sum(-1), teacher_mean, teacher_gap, teacher_label]
    sums = torch.stack([x for x in student + teacher if x is not None], dim=-1)
    return ShardChunk(student_exp, teacher_exp, gap, student_max, teacher_max, sums)


def combine(sums: Tensor) -> Statistics:
    """[world_size, n, 8 or 10] of all shards -> the statistics over the whole vocabulary."""
    student, teacher = sums.unbind(-1)[: sums.shape[-1] // 2], sums.unbind(-1)[sums.shape[-1] // 2 :]
    student_shift, teacher_shift = (of[0] - of[0].amax(0) for of in (student, teacher))
    gap_shift = teacher_shift - student_shift  # from a gap to a shard's own maxima to one to the vocabulary's
    return Statistics(
        _combine_model(student, student_shift, gap_shift), _combine_model(teacher, teacher_shift, gap_shift)
    )


def _combine_model(numbers: tuple[Tensor, ...], shift: Tensor, gap_shift: Tensor) -> ModelStatistics:
    maxima, total, mean_logit, mean_gap = numbers[:4]
    scale = shift.exp()
    sum_exp = (scale * total).sum(0)
    return ModelStatistics(
        max=maxima.amax(0),
        sum_exp=sum_exp,
        mean_logit=(scale * (mean_logit + shift * total)).sum(0) / sum_exp,
        mean_gap=(scale * (mean_gap + gap_shift * total)).sum(0) / sum_exp,
        label_logit=numbers[4].sum(0) if len(numbers) > 4 else None,
    )


def _subtract_max(logits: Tensor) -> Tensor:
    if logits.shape[-1] == 0:
        return logits.new_full(logits.shape[:1], NO_ENTRIES)
    maxima = logits.amax(-1)
    logits.sub_(maxima.unsqueeze(-1))
    return maxima


def label_logit(logits: Tensor, shard: VocabularyShard, labels: Tensor) -> Tensor:
    """[n]: the labels' logits; 0 where another shard has them, NaN where none does."""
    known = (labels >= 0) & (labels < shard.vocab_size)
    if logits.shape[-1] == 0:
        picked = logits.new_zeros(labels.shape)
    else:
        local = labels - shard.start
        here = (local >= 0) & (local < shard.real)
        picked = logits.gather(-1, local.where(here, 0).unsqueeze(-1)).squeeze(-1).where(here, 0.0)
    return picked.where(known, torch.nan)
