"""Divergences to a mixture m of both distributions: generalised JSD, skew KLs.

log m needs both normalisers, so each takes a second pass over the chunk, and one sum of two numbers per token
over the shards: the value, and the student's mean of g = dD / dp_S. The gradient is w p_S (g - E_S[g]).

With u = log p_T - log p_S everything is a function of x = c expm1(+-u), which keeps its digits where the
models nearly agree: g is taken without its constant, which E_S[g] removes anyway but which would cost float32
3e-4 to 3e-2 of the gradient at 0.0007 nats per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paced_megatron.divergence.evaluated import Evaluated, probabilities
from paced_megatron.divergence.statistics import ShardChunk, Statistics
from paced_megatron.divergence.vocabulary import VocabularyShard

# expm1 overflows float32 above 88. Where +-u is larger, one of the probabilities is below exp(-80) of the
# other, and what the clamp changes is multiplied with the smaller one.
LARGEST = 80.0


def jsd(chunk: ShardChunk, total: Statistics, shard: VocabularyShard, beta: float | None) -> Evaluated:
    """beta KL(p_T || m) + (1 - beta) KL(p_S || m), m = beta p_T + (1 - beta) p_S (GKD, 2306.13649).

    beta is on the teacher: D / beta goes to the forward KL as beta goes to 0, D / (1 - beta) to the reverse
    KL as beta goes to 1. g = (1 - beta) log(p_S / m).
    """
    assert beta is not None
    student, teacher, log_ratio = probabilities(chunk, total)
    scratch = _excess(log_ratio.neg(), 1 - beta).log1p_().mul_(teacher)  # p_T log(m / p_T)
    of_teacher = -scratch.sum(-1)
    g = _excess(log_ratio, beta).log1p_().neg_()  # log(p_S / m)
    of_student = torch.mul(g, student, out=scratch).sum(-1)
    of_teacher, of_student = shard.sum(torch.stack([of_teacher, of_student], dim=-1)).unbind(-1)
    value = beta * of_teacher + (1 - beta) * of_student
    return Evaluated(value, lambda weights: _gradient(student, g, of_student, (1 - beta) * weights))


def skew_forward_kl(
    chunk: ShardChunk, total: Statistics, shard: VocabularyShard, skew: float | None
) -> Evaluated:
    """KL(p_T || skew p_T + (1 - skew) p_S) (DistiLLM, 2402.03898). x = (1 - skew) expm1(-u),
    g = (1 - skew) x / (1 + x)."""
    assert skew is not None
    student, teacher, log_ratio = probabilities(chunk, total)
    x = _excess(log_ratio.neg_(), 1 - skew)
    log_mixture = torch.log1p(x)  # log(m / p_T)
    g = torch.neg(log_mixture, out=x).expm1_().neg_()  # x / (1 + x)
    value = -log_mixture.mul_(teacher).sum(-1)
    mean = torch.mul(g, student, out=log_mixture).sum(-1)
    value, mean = shard.sum(torch.stack([value, mean], dim=-1)).unbind(-1)
    return Evaluated(value, lambda weights: _gradient(student, g, mean, (1 - skew) * weights))


def skew_reverse_kl(
    chunk: ShardChunk, total: Statistics, shard: VocabularyShard, skew: float | None
) -> Evaluated:
    """KL(p_S || skew p_S + (1 - skew) p_T) (DistiLLM, 2402.03898). x = (1 - skew) expm1(u),
    g = -log1p(x) + skew x / (1 + x)."""
    assert skew is not None
    student, _, log_ratio = probabilities(chunk, total)
    x = _excess(log_ratio, 1 - skew)
    log_mixture = torch.log1p(x)  # log(m / p_S)
    g = torch.neg(log_mixture, out=x).expm1_().mul_(-skew).sub_(log_mixture)
    value = -log_mixture.mul_(student).sum(-1)
    mean = torch.mul(g, student, out=log_mixture).sum(-1)
    value, mean = shard.sum(torch.stack([value, mean], dim=-1)).unbind(-1)
    return Evaluated(value, lambda weights: _gradient(student, g, mean, weights))


def _excess(log_ratio: Tensor, share: float) -> Tensor:
    """share (exp(log_ratio) - 1), in place."""
    return log_ratio.clamp_(max=LARGEST).expm1_().mul_(share)


def _gradient(student: Tensor, g: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    """w p_S (g - E_S[g]), in g's buffer."""
    return g.sub_(mean.unsqueeze(-1)).mul_(student).mul_(weights.unsqueeze(-1))
