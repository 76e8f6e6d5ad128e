"""How a row of logits is shared out among threads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """A kernel's block of columns and its warps. 16 bytes a load and thread, and 8 or 16 entries a thread: with
    more, the accumulators of `measure` spill."""

    block: int
    warps: int


def reduction(columns: int) -> Launch:
    """One program walks a whole row: a chunk has hundreds, which fill the GPU. The narrow block keeps few
    registers, so that several programs share a multiprocessor and hide each other's loads."""
    return Launch(1024, 4) if columns > 1024 else Launch(256, 2)


def elementwise(columns: int) -> Launch:
    """One program for one block of one row."""
    return Launch(2048, 4) if columns > 1024 else Launch(256, 2)
