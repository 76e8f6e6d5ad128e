"""The products with a head, in the hidden states' dtype whatever the head's.

All are written into a given tensor (out= or in place), which autocast leaves alone: a plain `@` would be cast
to bf16. A bf16 head is widened some rows at a time, so that no float32 copy of it exists. On a GPU leave
`torch.set_float32_matmul_precision` at "highest": TF32 would round heads and logit gradients to 10 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def project(hidden: Tensor, head: Tensor, block_rows: int, *, out: Tensor) -> Tensor:
    """hidden [n, H] x head [V, H] -> out, the logits [n, V] in hidden's dtype."""
    for rows, block in _blocks(head, hidden.dtype, block_rows):
        torch.mm(hidden, block.t(), out=out[:, rows])
    return out


def project_back(logit_gradient: Tensor, head: Tensor, block_rows: int) -> Tensor:
    """logit_gradient [n, V] x head [V, H] -> hidden gradient [n, H] in logit_gradient's dtype."""
    hidden = logit_gradient.new_zeros(logit_gradient.shape[0], head.shape[1])
    for rows, block in _blocks(head, logit_gradient.dtype, block_rows):
        hidden.addmm_(logit_gradient[:, rows], block)
    return hidden


def _blocks(head: Tensor, dtype: torch.dtype, block_rows: int) -> Iterator[tuple[slice, Tensor]]:
    step = block_rows if head.dtype != dtype else max(head.shape[0], 1)
    for start in range(0, head.shape[0], step):
        rows = slice(start, min(start + step, head.shape[0]))
        yield rows, head[rows].to(dtype)
