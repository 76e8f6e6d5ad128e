"""The products with a head: in a wider dtype, or on tensor cores with float32 results.

All are written into a given tensor (out= or in place), which autocast leaves alone: a plain `@` would be cast
to bf16. Nothing here switches TF32 on: on a GPU leave `torch.set_float32_matmul_precision` at "highest", for
TF32 would round heads and logit gradients of float32 models to 10 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Products(Protocol):
    """The four products of a chunk: two to logits, one to the hidden gradient, one to the head's."""

    @property
    def temperature(self) -> float:
        """What is left to do to the logits: to be divided by it, and so are the weights of their gradient."""

    def rows(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """[N, H], [n] -> [n, H] as the products take them."""

    def project(self, hidden: Tensor, head: Tensor, *, out: Tensor) -> None:
        """`rows` [n, H] x head [V, H] -> out, the logits [n, V]."""

    def gradient_buffer(self, logits: Tensor) -> Tensor | None:
        """Where the gradient of the logits [n, V] is made; None: in the student's logits themselves."""

    def to_hidden(self, logit_gradient: Tensor, head: Tensor) -> Tensor:
        """logit_gradient [n, V] x head [V, H] -> hidden gradient [n, H] in the computing dtype."""

    def add_to_head(self, gradient: Tensor, logit_gradient: Tensor, hidden: Tensor, *, first: bool) -> None:
        """Adds logit_gradient^T [V, n] x `rows` [n, H] to gradient [V, H]; the first overwrites it."""


@dataclass(frozen=True)
class Widened:
    """Everything in float32 or float64. A bf16 head is widened some rows at a time, so that no float32 copy
    of it exists."""

    dtype: torch.dtype
    """the computing dtype"""
    divisor: float
    """the temperature: dividing the hidden states divides the logits, and saves a whole pass over [n, V]"""
    head_rows: int
    """of a head that are widened at a time"""

    temperature = 1.0

    def rows(self, hidden: Tensor, indices: Tensor) -> Tensor:
        return hidden.index_select(0, indices).to(self.dtype).div_(self.divisor)

    def project(self, hidden: Tensor, head: Tensor, *, out: Tensor) -> None:
        for rows, block in self._blocks(head):
            torch.mm(hidden, block.t(), out=out[:, rows])

    def gradient_buffer(self, logits: Tensor) -> Tensor | None:
        return None

    def to_hidden(self, logit_gradient: Tensor, head: Tensor) -> Tensor:
        hidden = logit_gradient.new_zeros(logit_gradient.shape[0], head.shape[1])
        for rows, block in self._blocks(head):
            hidden.addmm_(logit_gradient[:, rows], block)
        return hidden.div_(self.divisor)

    def add_to_head(self, gradient: Tensor, logit_gradient: Tensor, hidden: Tensor, *, first: bool) -> None:
        # `hidden` carries the 1/temperature already; zeroing [V, H] would be another pass over it.
        gradient.addmm_(logit_gradient.t(), hidden, beta=0 if first else 1)

    def _blocks(self, head: Tensor) -> Iterator[tuple[slice, Tensor]]:
        step = self.head_rows if head.dtype != self.dtype else max(head.shape[0], 1)
        for start in range(0, head.shape[0], step):
            rows = slice(start, min(start + step, head.shape[0]))
            yield rows, head[rows].to(self.dtype)


@dataclass(frozen=True)
class TensorCores:
    """bf16 factors, float32 sums and results: hidden states and heads as they are, never a wider copy.

    The logits are exact to float32. Their gradient is made in float32 and rounded to bf16 once, element by
    element, which costs 0.24 % of the hidden gradient at any KL (DESIGN.md, invariant 9); in float16 small
    ones would underflow, so that float16 models go the other way. The temperature is left to the vocabulary
    part: divided by it, the hidden states would be rounded once more.
    """

    temperature: float

    def rows(self, hidden: Tensor, indices: Tensor) -> Tensor:
        return hidden.index_select(0, indices)

    def project(self, hidden: Tensor, head: Tensor, *, out: Tensor) -> None:
        multiply(hidden, head.t(), out=out)

    def gradient_buffer(self, logits: Tensor) -> Tensor | None:
        return aligned_rows(logits, *logits.shape, dtype=torch.bfloat16)

    def to_hidden(self, logit_gradient: Tensor, head: Tensor) -> Tensor:
        hidden = head.new_empty(logit_gradient.shape[0], head.shape[1], dtype=torch.float32)
        return multiply(logit_gradient, head, out=hidden)

    def add_to_head(self, gradient: Tensor, logit_gradient: Tensor, hidden: Tensor, *, first: bool) -> None:
        if first:
            multiply(logit_gradient.t(), hidden, out=gradient)
        else:
            add_product(gradient, logit_gradient.t(), hidden)


def multiply(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    """left x right of bf16 into float32. A CPU has no such product: there both are widened, for the tests."""
    if out.device.type == "cpu":
        return torch.mm(left.float(), right.float(), out=out)
    return torch.mm(left, right, out_dtype=torch.float32, out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left x right, of bf16, in float32; on a CPU as in `multiply`."""
    if total.device.type == "cpu":
        total.addmm_(left.float(), right.float())
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


ALIGNED = 64
"""numbers: on a GPU rows of a buffer begin at multiples of it, so that tensor cores and 16-byte loads get
aligned rows whatever the vocabulary"""


def aligned_rows(like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
    """An empty [..., V] on the device of `like`; on a GPU a part of something with longer rows."""
    *others, columns = shape
    row = columns if like.device.type == "cpu" else -(-columns // ALIGNED) * ALIGNED
    return like.new_empty(*others, row, dtype=dtype)[..., :columns]
