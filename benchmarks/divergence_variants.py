"""What `divergence.py` times: floor, ours and plain torch, from the same models to the same gradients.

`gpu/divergence_variants.py` takes the models, ours and the way to a gradient from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from paced_megatron.divergence import weighted_divergence


@dataclass(frozen=True)
class Models:
    """What every variant starts from: N tokens of both models, and both heads [V, H_s] and [V, H_t]."""

    student_hidden: Tensor
    student_head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor
    weights: Tensor

    @staticmethod
    def of(
        vocabulary: int,
        tokens: int,
        hidden_size: int,
        device: str,
        dtype: torch.dtype = torch.float32,
        *,
        noise: float = 0.5,
        wider_by: int = 0,
    ) -> Models:
        """Logits with a standard deviation of 3, the teacher's further off by noise times that: 0.5 is about
        1 nat per token, less about 4.5 noise**2. The teacher's hidden states are wider_by numbers longer
        than the student's.
        """
        torch.manual_seed(5)
        hidden = torch.randn(tokens, hidden_size, device=device)
        head = torch.randn(vocabulary, hidden_size, device=device).mul_(3 / hidden_size**0.5)
        teacher_hidden = hidden + noise * torch.randn(tokens, hidden_size, device=device)
        weights = torch.full((tokens,), 1 / tokens, device=device)
        # The teacher's head is another tensor: one that lies in the cache already would help it.
        teacher_head = head.clone()
        if wider_by:  # noise as well, a tenth of the other one's variance
            rest = 0.3 * noise * torch.randn(tokens, wider_by, device=device)
            teacher_hidden = torch.cat([teacher_hidden, rest], dim=1)
            rest = torch.randn(vocabulary, wider_by, device=device).mul_(3 / wider_by**0.5)
            teacher_head = torch.cat([teacher_head, rest], dim=1)
        student_hidden, student_head = hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()
        return Models(student_hidden, student_head, teacher_hidden.to(dtype), teacher_head.to(dtype), weights)


Gradients = tuple[Tensor, Tensor]
"""of the student's hidden states and head"""
Job = Callable[[], Gradients]


def floor(models: Models, workspace_mb: float | None) -> Job:
    """The four products with a head that nothing can do without, in float32, into logits that are in memory
    already. Models of another dtype are widened beforehand."""
    student_hidden, student_head, teacher_hidden, teacher_head = (
        tensor.detach().float() for tensor in list(vars(models).values())[:4]
    )
    shape = models.student_hidden.shape[0], models.student_head.shape[0]
    student_logits, teacher_logits = models.weights.new_zeros(shape), models.weights.new_zeros(shape)
    for logits in (student_logits, teacher_logits):
        logits.fill_(1.0)  # what was only asked for is not in memory yet

    @torch.no_grad()
    def job() -> Gradients:
        torch.mm(student_hidden, student_head.t(), out=student_logits)
        torch.mm(teacher_hidden, teacher_head.t(), out=teacher_logits)
        return student_logits @ student_head, student_logits.t() @ student_hidden

    return job


def ours(models: Models, workspace_mb: float | None, **options: Any) -> Job:
    """options: more of `weighted_divergence`'s; forward KL unless they say otherwise."""
    asked = {"divergence": "forward_kl", "workspace_mb": workspace_mb} | options

    def job() -> Gradients:
        result = weighted_divergence(
            models.student_hidden,
            models.student_head,
            models.teacher_hidden,
            models.teacher_head,
            models.weights,
            vocab_size=models.student_head.shape[0],
            compute_grad=True,
            **asked,
        )
        return gradients(models, result.loss)

    return job


def torch_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
) -> Tensor:
    """As one would write it: full logits, in float32 as ours are, and autograd for the rest."""
    student = log_softmax(student_hidden.float() @ student_head.float().t(), -1)
    teacher = log_softmax(teacher_hidden.float() @ teacher_head.float().t(), -1)
    return (weights * kl_div(student, teacher, reduction="none", log_target=True).sum(-1)).sum()


def materialised(models: Models, workspace_mb: float | None) -> Job:
    return lambda: gradients(models, torch_loss(*vars(models).values()))


def compiled(models: Models, workspace_mb: float | None) -> Job:
    loss = torch.compile(torch_loss, dynamic=False)
    return lambda: gradients(models, loss(*vars(models).values()))


def gradients(models: Models, loss: Tensor) -> Gradients:
    hidden, head = torch.autograd.grad(loss, [models.student_hidden, models.student_head])
    return hidden, head


Make = Callable[[Models, float | None], Job]

VARIANTS: dict[str, Make] = {
    "floor": floor,
    "ours": ours,
    "torch": materialised,
    "torch.compile": compiled,
}
