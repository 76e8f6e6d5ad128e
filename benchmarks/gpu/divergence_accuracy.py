"""The float64 hidden gradient of some tokens, which every timed variant is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.divergence_variants import Models
from paced_megatron.divergence.reference import REFERENCES

HEAD_ROWS = 16_384
"""widened to float64 at a time: half a gigabyte at H = 4096"""
TOKENS_AT_ONCE = 64
BETA = 0.5
"""of every JSD here"""


@dataclass(frozen=True)
class Reference:
    rows: Tensor
    """[R], the tokens that are looked at"""
    hidden: dict[str, Tensor]
    """by divergence [R, H_s], float64"""

    @staticmethod
    def of(models: Models, divergences: Sequence[str], tokens: int) -> Reference:
        """At most so many tokens, drawn at random, with the weights they have among all N."""
        count = models.weights.shape[0]
        generator = torch.Generator().manual_seed(7)
        drawn = torch.randperm(count, generator=generator)[:tokens].sort().values.to(models.weights.device)
        parts = [_gradients(models, rows, divergences) for rows in drawn.split(TOKENS_AT_ONCE)]
        return Reference(drawn, {name: torch.cat([part[name] for part in parts]) for name in divergences})

    def error(self, hidden_gradient: Tensor, divergence: str) -> float:
        """||g - g64|| / ||g64|| over the rows; NaN where a number is missing."""
        right = self.hidden[divergence]
        return ((hidden_gradient[self.rows].double() - right).norm() / right.norm()).item()


@torch.no_grad()
def _gradients(models: Models, rows: Tensor, divergences: Sequence[str]) -> dict[str, Tensor]:
    student, teacher = (
        torch.cat([hidden[rows].double() @ head[block].double().t() for block in _blocks(head)], dim=1)
        for hidden, head in (
            (models.student_hidden, models.student_head),
            (models.teacher_hidden, models.teacher_head),
        )
    )
    made = {}
    for name in divergences:
        with torch.enable_grad():
            logits = student.detach().requires_grad_()
            values = REFERENCES[name](logits.log_softmax(-1), teacher.log_softmax(-1), BETA)
            (of_logits,) = torch.autograd.grad((models.weights[rows].double() * values).sum(), logits)
        head = models.student_head
        made[name] = sum(of_logits[:, block] @ head[block].double() for block in _blocks(head))
    return made


def _blocks(head: Tensor) -> list[slice]:
    return [slice(start, start + HEAD_ROWS) for start in range(0, head.shape[0], HEAD_ROWS)]
