"""The definition: full logits, float64, one process, autograd. Slow and obvious; the tests' measure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paced_megatron.divergence.result import DivergenceResult

# name -> D(log p_S [M, V], log p_T [M, V]) -> [M]. Formulas: docs/method.md, 2.
REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": lambda log_s, log_t: (log_t.exp() * (log_t - log_s)).sum(-1),
    "reverse_kl": lambda log_s, log_t: (log_s.exp() * (log_s - log_t)).sum(-1),
}


def reference_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
    *,
    divergence: str,
    temperature: float = 1.0,
    vocab_size: int,
    labels: Tensor | None = None,
) -> DivergenceResult:
    """sum_t weights_t D(p_S, p_T)_t, p = softmax(z / temperature) over the heads' first vocab_size rows.

    student_hidden [M, H_s], student_head [>= vocab_size, H_s], teacher_hidden [M, H_t], teacher_head [>=
    vocab_size, H_t], weights [M], labels [M] or None. Any floating dtype; computed and returned in float64.
    Autograd carries the loss back to student_hidden and student_head. Raises KeyError for a divergence
    without a formula here.
    """
    student_logits = student_hidden.double() @ student_head[:vocab_size].double().t()
    teacher_logits = teacher_hidden.detach().double() @ teacher_head[:vocab_size].detach().double().t()
    log_s = torch.log_softmax(student_logits / temperature, dim=-1)
    log_t = torch.log_softmax(teacher_logits / temperature, dim=-1)
    values = REFERENCES[divergence](log_s, log_t)
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
