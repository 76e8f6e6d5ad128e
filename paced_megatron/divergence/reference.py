"""The definition: full logits, float64, one process, autograd. Slow and obvious; the tests' measure."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from paced_megatron.divergence.result import DivergenceResult


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of [M, V] -> [M]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def log_mixture(share: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(share p + (1 - share) q)."""
    return torch.logaddexp(log(share) + log_p, log(1 - share) + log_q)


def jsd(log_s: Tensor, log_t: Tensor, beta: float) -> Tensor:
    log_m = log_mixture(beta, log_t, log_s)
    return beta * kl(log_t, log_m) + (1 - beta) * kl(log_s, log_m)


def head_share(log_s: Tensor, log_t: Tensor, mu: float) -> Tensor:
    """[M], detached: AKL's part of the forward KL, by a sort of the teacher's probabilities."""
    p_s, p_t = log_s.detach().exp(), log_t.detach().exp()
    likeliest_first = p_t.sort(dim=-1, descending=True).values
    left_out = (likeliest_first.cumsum(-1) > mu).int().argmax(-1, keepdim=True)
    head = p_t > likeliest_first.gather(-1, left_out)
    head |= (p_t == likeliest_first[:, :1]) & ~head.any(-1, keepdim=True)
    gap = (p_t - p_s).abs()
    gap_head, gap_all = (gap * head).sum(-1), gap.sum(-1)
    return (gap_head / gap_all).where(gap_all > 0, 0.5)


def akl(log_s: Tensor, log_t: Tensor, mu: float) -> Tensor:
    share = head_share(log_s, log_t, mu)
    return share * kl(log_t, log_s) + (1 - share) * kl(log_s, log_t)


# name -> D(log p_S [M, V], log p_T [M, V], parameter) -> [M]. Formulas: docs/method.md, 2.
REFERENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": lambda log_s, log_t, _: kl(log_t, log_s),
    "reverse_kl": lambda log_s, log_t, _: kl(log_s, log_t),
    "jsd": jsd,
    "skew_forward_kl": lambda log_s, log_t, skew: kl(log_t, log_mixture(skew, log_t, log_s)),
    "skew_reverse_kl": lambda log_s, log_t, skew: kl(log_s, log_mixture(skew, log_s, log_t)),
    "akl": akl,
}


def reference_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
    *,
    divergence: str,
    parameter: float = 0.5,
    temperature: float = 1.0,
    vocab_size: int,
    labels: Tensor | None = None,
) -> DivergenceResult:
    """sum_t weights_t D(p_S, p_T)_t, p = softmax(z / temperature) over the heads' first vocab_size rows.

    student_hidden [M, H_s], student_head [>= vocab_size, H_s], teacher_hidden [M, H_t], teacher_head [>=
    vocab_size, H_t], weights [M], labels [M] or None. Any floating dtype; computed and returned in float64.
    parameter: the divergence's, where it has one. Autograd carries the loss back to student_hidden and
    student_head. Raises KeyError for a divergence without a formula here.
    """
    student_logits = student_hidden.double() @ student_head[:vocab_size].double().t()
    teacher_logits = teacher_hidden.detach().double() @ teacher_head[:vocab_size].detach().double().t()
    log_s = torch.log_softmax(student_logits / temperature, dim=-1)
    log_t = torch.log_softmax(teacher_logits / temperature, dim=-1)
    values = REFERENCES[divergence](log_s, log_t, parameter)
    return DivergenceResult(
        loss=(weights.double() * values).sum(),
        divergence=values.detach(),
        student_entropy=-(log_s.exp() * log_s).sum(-1).detach(),
        teacher_entropy=-(log_t.exp() * log_t).sum(-1),
        student_log_normalizer=torch.logsumexp(student_logits / temperature, dim=-1).detach(),
        teacher_log_normalizer=torch.logsumexp(teacher_logits / temperature, dim=-1),
        student_log_prob=None if labels is None else _of_labels(log_s.detach(), labels),
        teacher_log_prob=None if labels is None else _of_labels(log_t, labels),
    )


def _of_labels(log_probs: Tensor, labels: Tensor) -> Tensor:
    inside = (labels >= 0) & (labels < log_probs.shape[-1])
    picked = log_probs.gather(-1, labels.where(inside, 0).unsqueeze(-1)).squeeze(-1)
    return picked.where(inside, torch.nan)
