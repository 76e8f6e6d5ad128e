"""How a row of logits is shared out among threads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """A kernel's block of columns and its warps: loads of 16 bytes, and 8 or 16 entries for each thread."""

    block: int
    warps: int


def reduction(columns: int) -> Launch:
    """One program walks a whole row: a chunk has hundreds, which fill the GPU. With 8 entries a thread
    `measure` has under 100 registers on Hopper, 168 with 16, so that five programs share a multiprocessor and
    hide each other's loads."""
    return Launch(1024, 4) if columns > 1024 else Launch(256, 2)


def elementwise(columns: int) -> Launch:
    """One program for one block of one row."""
    return Launch(2048, 4) if columns > 1024 else Launch(256, 2)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Within it kernels are launched where the tensor is: Triton launches on the current device, which
    needn't be that one, and there the addresses would be another GPU's. On a CPU it does nothing."""
    return torch.cuda.device_of(tensor)
