"""The walk over chunks of tokens: logits, statistics, and the gradients while the logits are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.divergence.matmul import Products, aligned_rows
from paced_megatron.divergence.statistics import Statistics, combine
from paced_megatron.divergence.torch_part import Measured, VocabularyPart
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.workspace import Workspace


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


@dataclass(frozen=True)
class Chunk:
    """Tokens whose logits are there."""

    tokens: slice
    """of the M"""
    indices: Tensor
    """[n], theirs among the N"""
    student: Tensor
    """[n, H_s], as the products take them"""
    logits: Tensor
    """[2, n, V], the student's and the teacher's"""


@dataclass(frozen=True)
class Walk:
    """The steps of a walk, and the two orders that they may be taken in."""

    tokens: Tokens
    heads: Heads
    vocabulary: VocabularyPart
    products: Products
    workspace: Workspace
    gradients: Gradients | None
    """are added to"""
    pipelined: bool = False

    def run(self) -> tuple[Tensor, ...]:
        """The per-token fields of DivergenceResult in their order, [M] each; the last two only with labels.

        The same number of chunks and blocks on every rank; in each block one all-gather, and what the
        divergence needs besides.
        """
        count, fields = self.tokens.indices.shape[0], 5 if self.tokens.labels is None else 7
        per_token = self.tokens.student_hidden.new_empty(fields, count, dtype=self.tokens.dtype)
        if not count:
            return per_token.unbind()
        # Made once: on a CPU the first touch of new memory costs more than any step of the elementwise work.
        step, pairs = self.workspace.chunk_tokens(count), 2 if self.pipelined else 1
        shape = pairs, 2, min(step, count), self.heads.shard.real
        logits = aligned_rows(per_token, *shape, dtype=self.tokens.dtype)
        buffer = None if self.gradients is None else self.products.gradient_buffer(logits[0, 0])
        parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
        take = self._overlapped if self.pipelined else self._one_by_one
        take(parts, logits, buffer, per_token)
        return per_token.unbind()

    def _one_by_one(
        self, parts: Sequence[slice], logits: Tensor, buffer: Tensor | None, per_token: Tensor
    ) -> None:
        """The heads are multiplied with a whole chunk, the rest is done block by block, on a CPU in its
        cache."""
        for part in parts:
            chunk = self._project(part, logits[0])
            for start in range(0, part.stop - part.start, self.workspace.block_tokens):
                block = slice(start, min(start + self.workspace.block_tokens, part.stop - part.start))
                self._block(chunk, block, buffer, per_token)
            self._backward(chunk, buffer)

    def _overlapped(
        self, parts: Sequence[slice], logits: Tensor, buffer: Tensor | None, per_token: Tensor
    ) -> None:
        """While a chunk's numbers are gathered, the next one's logits are made in the other pair of
        buffers."""
        chunk: Chunk | None = self._project(parts[0], logits[0])
        for number, part in enumerate(parts, start=1):
            assert chunk is not None
            whole = slice(0, part.stop - part.start)
            measured = self._measure(chunk, whole)
            gathering = self.heads.shard.start_gather(measured.sums)
            following = self._project(parts[number], logits[number % 2]) if number < len(parts) else None
            self._evaluate(chunk, whole, measured, gathering.wait(), buffer, per_token)
            del measured  # and with it what the vocabulary part has of [n, V]
            self._backward(chunk, buffer)
            chunk = following

    def _block(self, chunk: Chunk, block: slice, buffer: Tensor | None, per_token: Tensor) -> None:
        measured = self._measure(chunk, block)
        sums = self.heads.shard.gather(measured.sums)
        self._evaluate(chunk, block, measured, sums, buffer, per_token)

    def _project(self, part: slice, logits: Tensor) -> Chunk:
        tokens, heads = self.tokens, self.heads
        indices, logits = tokens.indices[part], logits[:, : part.stop - part.start]
        student, teacher = (
            self.products.rows(hidden, indices) for hidden in (tokens.student_hidden, tokens.teacher_hidden)
        )
        self.products.project(student, heads.student, out=logits[0])
        self.products.project(teacher, heads.teacher, out=logits[1])
        return Chunk(part, indices, student, logits)

    def _measure(self, chunk: Chunk, block: slice) -> Measured:
        labels = None if self.tokens.labels is None else self.tokens.labels[chunk.tokens][block]
        return self.vocabulary.measure(chunk.logits[0, block], chunk.logits[1, block], labels)

    def _evaluate(
        self,
        chunk: Chunk,
        block: slice,
        measured: Measured,
        sums: Tensor,
        buffer: Tensor | None,
        per_token: Tensor,
    ) -> None:
        """sums: [ranks, n, 8 or 10]."""
        total = combine(sums)
        result = measured.evaluate(total)
        per_token[:, chunk.tokens][:, block] = torch.stack([result.value, *_by_products(total)])
        if self.gradients is not None:
            weights = self.gradients.weights[chunk.tokens][block] / self.products.temperature
            result.write_gradient(weights, _gradient(chunk, buffer)[block])

    def _backward(self, chunk: Chunk, buffer: Tensor | None) -> None:
        gradients, heads = self.gradients, self.heads
        if gradients is None:
            return
        logit_gradient = _gradient(chunk, buffer)
        if gradients.hidden is not None:
            back = self.products.to_hidden(logit_gradient, heads.student)
            gradients.hidden.index_add_(0, chunk.indices, back)
        if gradients.head is not None:
            real = gradients.head[: heads.shard.real]
            first = chunk.tokens.start == 0
            self.products.add_to_head(real, logit_gradient, chunk.student, first=first)


def _gradient(chunk: Chunk, buffer: Tensor | None) -> Tensor:
    """[n, V]: where the chunk's logit gradient is."""
    return chunk.logits[0] if buffer is None else buffer[: chunk.indices.shape[0]]


def _by_products(total: Statistics) -> list[Tensor]:
    student, teacher = total.student, total.teacher
    known = [student.entropy, teacher.entropy, student.log_normalizer, teacher.log_normalizer]
    return known + [x for x in (student.label_log_prob, teacher.label_log_prob) if x is not None]
