"""How many tokens one chunk may have, from a budget in MB."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# What the elementwise work on a block may take on a CPU: well within a third-level cache. For Qwen's
# vocabulary in float32 that is four tokens; 1 to 16 were tried (docs/performance.md).
CACHE_BYTES = 10 * 2**20

LEAST_MB = 256.0
"""of a workspace that follows the head"""

LEAST_TOKENS_ON_A_GPU = 1024
"""of a chunk of such a workspace: with fewer the products read the heads and add to the head's gradient for
longer than they multiply. Predicted (benchmarks/gpu/roofline.py), not measured"""

ALIGNMENT = 64
"""tokens: products with another number of rows are slower, with 171 than with 192 (docs/performance.md)"""


@dataclass(frozen=True)
class Workspace:
    tokens: int
    """in one chunk, at least 1; from ALIGNMENT on a multiple of it"""
    block_tokens: int
    """of a chunk that are worked on at a time once their logits are there, at least 1"""
    head_rows: int
    """of a head that are widened to the computing dtype at a time, at least 1"""

    @staticmethod
    def of(
        megabytes: float | None,
        student_head: Tensor,
        teacher_head: Tensor,
        dtype: torch.dtype,
        buffers: int,
        *,
        beside: float = 0.0,
        widened: bool = True,
    ) -> Workspace:
        """buffers: of [n, V] alive at once in a block (`Path.buffers`); a chunk has but its two logits.
        beside: of [n, V] that a chunk has besides, in numbers of dtype (`Path.beside`): a bf16 gradient is
        half a one. widened: heads of another dtype are widened to dtype, some rows at a time.

        None follows the student's head: as much as its gradient takes, so that both logits of a chunk have
        about H / 2 tokens. Every chunk reads both heads and adds to the whole gradient anew; so many tokens
        make that cheap beside the products, whatever the vocabulary and the hidden size. On a GPU at least
        LEAST_TOKENS_ON_A_GPU.

        Built only of what is equal on all ranks of the group, so that they walk through the same chunks: the
        student's padded rows are counted, not a rank's real ones, and of the teacher's head its width and
        dtype. Where a head has to be widened, an eighth of the budget is kept for it. A budget under one
        token's needs gives chunks of one token.
        """
        rows, student_size = student_head.shape
        teacher_size = teacher_head.shape[-1]
        row = rows * dtype.itemsize
        # Hidden states of both as they come and widened, the student's gradient twice, and what is known per
        # token.
        other = (4 * student_size + 2 * teacher_size + 64) * dtype.itemsize
        of_token = (buffers + beside) * row + other
        widened = widened and (student_head.dtype != dtype or teacher_head.dtype != dtype)
        share = 7 / 8 if widened else 1.0
        if megabytes is not None:
            budget = megabytes * 2**20
        else:
            budget = max(LEAST_MB * 2**20, row * student_size)
            if student_head.device.type == "cuda":  # half a token more, for budget * share is rounded
                budget = max(budget, (LEAST_TOKENS_ON_A_GPU + 0.5) * of_token / share)
        for_tokens = budget * share
        tokens = int(for_tokens / of_token)
        block = tokens  # a GPU is best served with few and large operations
        if student_head.device.type == "cpu" and tokens > CACHE_BYTES // (buffers * row):
            block = max(CACHE_BYTES // (buffers * row), 1)
            tokens = int((for_tokens - (buffers - 2) * block * row) / ((2 + beside) * row + other))
        if tokens > ALIGNMENT:
            tokens -= tokens % ALIGNMENT
        head_row = max(student_size, teacher_size) * dtype.itemsize
        return Workspace(max(tokens, 1), max(block, 1), max(int(budget / 8 / head_row), 1))

    def chunk_tokens(self, count: int) -> int:
        """For count tokens: chunks of nearly equal length, since a short last one costs nearly as much as a
        long one."""
        if count <= self.tokens:
            return max(count, 1)
        even = math.ceil(count / math.ceil(count / self.tokens))
        return math.ceil(even / ALIGNMENT) * ALIGNMENT if self.tokens >= ALIGNMENT else even
