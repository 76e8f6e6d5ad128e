"""The walk over chunks of tokens: logits, one all-gather, and the gradients while the logits are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.divergence.matmul import project, project_back
from paced_megatron.divergence.statistics import Statistics, combine, measure
from paced_megatron.divergence.table import Divergence
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.workspace import Workspace


@dataclass(frozen=True)
class Tokens:
    """M tokens to look at among N. The weights are in the dtype in which all is computed."""

    student_hidden: Tensor
    """[N, H_s]"""
    teacher_hidden: Tensor
    """[N, H_t]"""
    weights: Tensor
    """[M]"""
    labels: Tensor | None
    """[M]"""
    indices: Tensor
    """[M], on the hidden states' device"""


@dataclass(frozen=True)
class Heads:
    """The real rows of both heads on this rank."""

    student: Tensor
    teacher: Tensor
    shard: VocabularyShard


@dataclass(frozen=True)
class Gradients:
    """Sums in the computing dtype, added to chunk by chunk; None is not wanted."""

    hidden: Tensor | None
    """[N, H_s], this rank's part of the vocabulary only"""
    head: Tensor | None
    """[V_r, H_s], padding rows stay 0"""

    @property
    def wanted(self) -> bool:
        return self.hidden is not None or self.head is not None


def walk(
    tokens: Tokens,
    heads: Heads,
    divergence: Divergence,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients,
) -> tuple[Tensor, ...]:
    """The per-token fields of DivergenceResult in their order, [M] each; the last two only with labels.

    `gradients` are added to. One all-gather a chunk, the same number of chunks on every rank.
    """
    count = tokens.weights.shape[0]
    per_token = tokens.weights.new_empty(5 if tokens.labels is None else 7, count)
    for start in range(0, count, workspace.tokens):
        part = slice(start, min(start + workspace.tokens, count))
        per_token[:, part] = _chunk(tokens, part, heads, divergence, temperature, workspace, gradients)
    return per_token.unbind()


def _chunk(
    tokens: Tokens,
    part: slice,
    heads: Heads,
    divergence: Divergence,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients,
) -> Tensor:
    """[5 or 7, n]. A function of its own: one chunk's buffers are gone before the next one's are made."""
    indices, weights = tokens.indices[part], tokens.weights[part]
    # Dividing the hidden states divides the logits, and a whole pass over [n, V] is saved.
    student, teacher = (
        hidden.index_select(0, indices).to(weights.dtype).div_(temperature)
        for hidden in (tokens.student_hidden, tokens.teacher_hidden)
    )
    chunk = measure(
        project(student, heads.student, workspace.head_rows),
        project(teacher, heads.teacher, workspace.head_rows),
        heads.shard,
        None if tokens.labels is None else tokens.labels[part],
    )
    total = combine(heads.shard.gather(chunk.sums))
    if gradients.wanted:
        logit_gradient = divergence.logit_gradient(chunk, total, weights)
        if gradients.hidden is not None:
            back = project_back(logit_gradient, heads.student, workspace.head_rows).div_(temperature)
            gradients.hidden.index_add_(0, indices, back)
        if gradients.head is not None:  # `student` carries the 1/temperature already
            gradients.head[: heads.shard.real].addmm_(logit_gradient.t(), student)
    return torch.stack([divergence.value(total), *_by_products(total)])


def _by_products(total: Statistics) -> list[Tensor]:
    student, teacher = total.student, total.teacher
    known = [student.entropy, teacher.entropy, student.log_normalizer, teacher.log_normalizer]
    return known + [x for x in (student.label_log_prob, teacher.label_log_prob) if x is not None]
