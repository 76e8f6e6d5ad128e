"""How many tokens one chunk may have, from a budget in MB."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Workspace:
    tokens: int
    """in one chunk, at least 1"""
    head_rows: int
    """of a head that are widened to the computing dtype at a time, at least 1"""

    @staticmethod
    def of(
        megabytes: float, student_head: Tensor, teacher_hidden: Tensor, dtype: torch.dtype, buffers: int
    ) -> Workspace:
        """buffers: of [n, V] alive at once (`Divergence.buffers`).

        Built only of what is equal on all ranks of the group, so that they walk through the same chunks.

        The student's padded rows are therefore counted, not a rank's real ones. An eighth of the budget is
        kept for widening the heads. A budget under one token's needs gives chunks of one token.
        """
        budget = megabytes * 2**20
        rows, student_size = student_head.shape
        teacher_size = teacher_hidden.shape[-1]
        # Hidden states of both as they come and widened, the student's gradient twice, and what is known per
        # token.
        per_token = (buffers * rows + 4 * student_size + 2 * teacher_size + 64) * dtype.itemsize
        head_row = max(student_size, teacher_size) * dtype.itemsize
        return Workspace(max(int(budget * 7 / 8 / per_token), 1), max(int(budget / 8 / head_row), 1))
