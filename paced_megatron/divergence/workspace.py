"""How many tokens one chunk may have, from a budget in MB."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What the elementwise work on a block may take on a CPU: well within a third-level cache. For Qwen's
# vocabulary in float32 that is four tokens; 1 to 16 were tried (docs/performance.md).
CACHE_BYTES = 10 * 2**20


@dataclass(frozen=True)
class Workspace:
    tokens: int
    """in one chunk, at least 1"""
    block_tokens: int
    """of a chunk that are worked on at a time once their logits are there, at least 1"""
    head_rows: int
    """of a head that are widened to the computing dtype at a time, at least 1"""

    @staticmethod
    def of(
        megabytes: float, student_head: Tensor, teacher_hidden: Tensor, dtype: torch.dtype, buffers: int
    ) -> Workspace:
        """buffers: of [n, V] alive at once in a block (`Divergence.buffers`); a chunk has but its two logits.

        Built only of what is equal on all ranks of the group, so that they walk through the same chunks.

        The student's padded rows are therefore counted, not a rank's real ones. An eighth of the budget is
        kept for widening the heads. A budget under one token's needs gives chunks of one token.
        """
        budget = megabytes * 2**20
        rows, student_size = student_head.shape
        teacher_size = teacher_hidden.shape[-1]
        # Hidden states of both as they come and widened, the student's gradient twice, and what is known per
        # token.
        other = (4 * student_size + 2 * teacher_size + 64) * dtype.itemsize
        row = rows * dtype.itemsize
        tokens = int(budget * 7 / 8 / (buffers * row + other))
        block = tokens  # a GPU is best served with few and large operations
        if student_head.device.type == "cpu" and tokens > CACHE_BYTES // (buffers * row):
            block = max(CACHE_BYTES // (buffers * row), 1)
            tokens = int((budget * 7 / 8 - (buffers - 2) * block * row) / (2 * row + other))
        head_row = max(student_size, teacher_size) * dtype.itemsize
        return Workspace(max(tokens, 1), max(block, 1), max(int(budget / 8 / head_row), 1))
