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
    """[V_r, H_s]; the first chunk overwrites the real rows, the padding stays 0"""

    @staticmethod
    def of(
        weights: Tensor, student_hidden: Tensor, student_head: Tensor, tokens: Tokens, shard: VocabularyShard
    ) -> Gradients:
        """Those of hidden states and head that require a gradient."""
        hidden = head = None
        if student_hidden.requires_grad:
            hidden = student_hidden.new_zeros(tokens.student_hidden.shape, dtype=tokens.dtype)
        if student_head.requires_grad:
            head = student_head.new_empty(student_head.shape, dtype=tokens.dtype)
            head[shard.real if tokens.indices.numel() else 0 :].zero_()
        return Gradients(weights.to(tokens.dtype), hidden, head)


def walk(
    tokens: Tokens,
    heads: Heads,
    evaluate: Evaluate,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients | None,
) -> tuple[Tensor, ...]:
    """The per-token fields of DivergenceResult in their order, [M] each; the last two only with labels.

    `gradients` are added to. The same number of chunks and blocks on every rank; in each block one
    all-gather, and what the divergence needs besides.
    """
    count, fields = tokens.indices.shape[0], 5 if tokens.labels is None else 7
    per_token = tokens.student_hidden.new_empty(fields, count, dtype=tokens.dtype)
    # Made once: on a CPU the first touch of new memory costs more than any step of the elementwise work.
    step = workspace.chunk_tokens(count)
    logits = per_token.new_empty(2, min(step, count), heads.shard.real)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        buffers = logits[:, : part.stop - start]
        per_token[:, part] = _chunk(tokens, part, heads, evaluate, temperature, workspace, gradients, buffers)
    return per_token.unbind()


def _chunk(
    tokens: Tokens,
    part: slice,
    heads: Heads,
    evaluate: Evaluate,
    temperature: float,
    workspace: Workspace,
    gradients: Gradients | None,
    logits: Tensor,
) -> Tensor:
    """[5 or 7, n]; logits [2, n, V] is overwritten. The heads are multiplied with a whole chunk, the rest is
    done block by block, in the cache."""
    indices = tokens.indices[part]
    # Dividing the hidden states divides the logits, and a whole pass over [n, V] is saved.
    student, teacher = (
        hidden.index_select(0, indices).to(tokens.dtype).div_(temperature)
        for hidden in (tokens.student_hidden, tokens.teacher_hidden)
    )
    student_logits = project(student, heads.student, workspace.head_rows, out=logits[0])
    teacher_logits = project(teacher, heads.teacher, workspace.head_rows, out=logits[1])
    labels = None if tokens.labels is None else tokens.labels[part]
    weights = None if gradients is None else gradients.weights[part]
    per_token = []
    for start in range(0, indices.shape[0], workspace.block_tokens):
        block = slice(start, start + workspace.block_tokens)
        of_block = None if labels is None else labels[block]
        chunk = measure(student_logits[block], teacher_logits[block], heads.shard, of_block)
        total = combine(heads.shard.gather(chunk.sums))
        evaluated = evaluate(chunk, total, heads.shard)
        per_token.append(torch.stack([evaluated.value, *_by_products(total)]))
        if weights is not None:
            student_logits[block] = evaluated.logit_gradient(weights[block])
    if gradients is not None:
        logit_gradient = student_logits
        if gradients.hidden is not None:
            back = project_back(logit_gradient, heads.student, workspace.head_rows).div_(temperature)
            gradients.hidden.index_add_(0, indices, back)
        if gradients.head is not None:  # `student` carries the 1/temperature already
            before = 1 if part.start else 0  # nothing yet: zeroing [V_r, H_s] would be another pass over it
            gradients.head[: heads.shard.real].addmm_(logit_gradient.t(), student, beta=before)
    return torch.cat(per_token, dim=1)


def _by_products(total: Statistics) -> list[Tensor]:
    student, teacher = total.student, total.teacher
    known = [student.entropy, teacher.entropy, student.log_normalizer, teacher.log_normalizer]
    return known + [x for x in (student.label_log_prob, teacher.label_log_prob) if x is not None]
