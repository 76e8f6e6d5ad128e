"""The walk over chunks of tokens: logits, statistics, and the gradients while the logits are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.divergence.evaluated import Evaluated
from paced_megatron.divergence.matmul import project, project_back
from paced_megatron.divergence.statistics import ShardChunk, Statistics, combine, measure
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.workspace import Workspace

Evaluate = Callable[[ShardChunk, Statistics, VocabularyShard], Evaluated]


@dataclass(frozen=True)
class Tokens:
    """M tokens to look at among N."""

    student_hidden: Tensor
    """[N, H_s]"""
    teacher_hidden: Tensor
    """[N, H_t]"""
    labels: Tensor | None
    """[M]"""
    indices: Tensor
    """[M], on the hidden states' device"""
    dtype: torch.dtype
    """in which all is computed"""


@dataclass(frozen=True)
class Heads:
    """The real rows of both heads on this rank."""

    student: Tensor
    teacher: Tensor
    shard: VocabularyShard


@dataclass(frozen=True)
class Gradients:
    """Sums in the computing dtype, added to chunk by chunk; None is not wanted."""

    weights: Tensor
    """[M], in the computing dtype"""
    hidden: Tensor | None
    """[N, H_s], this rank's part of the vocabulary only"""
    head: Tensor | None
    """[V_r, H_s], padding rows stay 0"""


def walk(
    tokens: Tokens,
    heads: Heads,
    evaluate: Evaluate,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients | None,
) -> tuple[Tensor, ...]:
    """The per-token fields of DivergenceResult in their order, [M] each; the last two only with labels.

    `gradients` are added to. The same number of chunks on every rank; in each one all-gather,
    and what the divergence needs besides.
    """
    count, fields = tokens.indices.shape[0], 5 if tokens.labels is None else 7
    per_token = tokens.student_hidden.new_empty(fields, count, dtype=tokens.dtype)
    for start in range(0, count, workspace.tokens):
        part = slice(start, min(start + workspace.tokens, count))
        per_token[:, part] = _chunk(tokens, part, heads, evaluate, temperature, workspace, gradients)
    return per_token.unbind()


def _chunk(
    tokens: Tokens,
    part: slice,
    heads: Heads,
    evaluate: Evaluate,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients | None,
) -> Tensor:
    """[5 or 7, n]. A function of its own: one chunk's buffers are gone before the next one's are made."""
    indices = tokens.indices[part]
    # Dividing the hidden states divides the logits, and a whole pass over [n, V] is saved.
    student, teacher = (
        hidden.index_select(0, indices).to(tokens.dtype).div_(temperature)
        for hidden in (tokens.student_hidden, tokens.teacher_hidden)
    )
    chunk = measure(
        project(student, heads.student, workspace.head_rows),
        project(teacher, heads.teacher, workspace.head_rows),
        heads.shard,
        None if tokens.labels is None else tokens.labels[part],
    )
    total = combine(heads.shard.gather(chunk.sums))
    evaluated = evaluate(chunk, total, heads.shard)
    if gradients is not None:
        logit_gradient = evaluated.logit_gradient(gradients.weights[part])
        if gradients.hidden is not None:
            back = project_back(logit_gradient, heads.student, workspace.head_rows).div_(temperature)
            gradients.hidden.index_add_(0, indices, back)
        if gradients.head is not None:  # `student` carries the 1/temperature already
            gradients.head[: heads.shard.real].addmm_(logit_gradient.t(), student)
    return torch.stack([evaluated.value, *_by_products(total)])


def _by_products(total: Statistics) -> list[Tensor]:
    student, teacher = total.student, total.teacher
    known = [student.entropy, teacher.entropy, student.log_normalizer, teacher.log_normalizer]
    return known + [x for x in (student.label_log_prob, teacher.label_log_prob) if x is not None]
