"""AKL (Rethinking KL, 2404.02657): forward KL and reverse KL, shared out by how much there is to learn of the
ids that the teacher finds likely, and of the others.

The official code sorts the vocabulary; over several shards a search for the threshold is cheaper: one number
per token is summed over the shards in each of its steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paced_megatron.divergence.evaluated import Evaluated, probabilities
from paced_megatron.divergence.statistics import ShardChunk, Statistics
from paced_megatron.divergence.vocabulary import VocabularyShard

INTEGERS = {torch.float32: (torch.int32, 30), torch.float64: (torch.int64, 62)}
"""Of each float the integer of its width, and the bits that tell the numbers in [0, 2) apart"""


def adaptive_kl(chunk: ShardChunk, total: Statistics, shard: VocabularyShard, mu: float | None) -> Evaluated:
    """h FKL + (1 - h) RKL, h = gap_head / (gap_head + gap_tail), gap = sum |p_T - p_S|, h detached.

    The head are the teacher's likeliest ids with at most mu of its probability together, the likeliest always
    among them. Ids that are equally likely to within 16 steps of rounding stay together: in the tail where
    they do not all fit, but in the head where they are the likeliest. h = 1/2 where both gaps are 0. Whether
    a total that is mu to within rounding counts as "at most mu" is left to rounding.
    """
    assert mu is not None
    student, teacher, log_ratio = probabilities(chunk, total)
    threshold = _head_threshold(teacher, total, shard, mu)
    gap = torch.sub(teacher, student).abs_()
    gap_all = gap.sum(-1)
    gap_head = gap.mul_(teacher > threshold.unsqueeze(-1)).sum(-1)
    gap_all, gap_head = shard.sum(torch.stack([gap_all, gap_head], dim=-1)).unbind(-1)
    head_share = (gap_head / gap_all).where(gap_all > 0, 0.5)
    reverse_kl = total.reverse_kl

    def logit_gradient(weights: Tensor) -> Tensor:
        """w (h (p_S - p_T) - (1 - h) p_S (u + RKL)), in u's buffer."""
        forward, reverse = weights * head_share, weights * (1 - head_share)
        of_reverse = log_ratio.add_(reverse_kl.unsqueeze(-1)).mul_(student).mul_(-reverse.unsqueeze(-1))
        return of_reverse.add_(student.sub_(teacher).mul_(forward.unsqueeze(-1)))

    return Evaluated(head_share * total.forward_kl + (1 - head_share) * reverse_kl, logit_gradient)


def _head_threshold(teacher: Tensor, total: Statistics, shard: VocabularyShard, mu: float) -> Tensor:
    """[n]: the head's ids are more likely than this."""
    rounding = 16 * torch.finfo(teacher.dtype).eps
    below_likeliest = (1 - rounding) / total.teacher.sum_exp
    return torch.minimum(_first_left_out(teacher, mu, shard) * (1 + rounding), below_likeliest)


def _first_left_out(probability: Tensor, mu: float, shard: VocabularyShard) -> Tensor:
    """[n]: the largest q such that all ids with p >= q have more than mu together; such an id's p.

    Bisection over the floats themselves: those that are not negative are in the order of their bits.
    """
    dtype = probability.dtype
    integer, bits = INTEGERS[dtype]
    low = torch.zeros(probability.shape[:1], dtype=integer, device=probability.device)
    high = torch.full_like(low, 1 << bits)  # 2.0
    scratch = torch.empty_like(probability)
    for _ in range(bits):
        middle = low + (high - low) // 2
        torch.ge(probability, middle.view(dtype).unsqueeze(-1), out=scratch)
        too_much = shard.sum(scratch.mul_(probability).sum(-1)) > mu
        low, high = middle.where(too_much, low), high.where(too_much, middle)
    return low.view(dtype)
