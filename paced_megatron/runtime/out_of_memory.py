"""Out of memory, on a GPU or on the host: a line that says where, how much, and what to change; and how a job
ends of which one rank has no memory left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from paced_megatron.errors import UserError
from paced_megatron.exit_codes import USER_ERROR
from paced_megatron.runtime.files import cannot_write

if TYPE_CHECKING:
    from paced_megatron.runtime.lead import Lead

GB = 2**30
# What libraries below torch say of it, in a plain RuntimeError.
_WORDS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
)


class OutOfMemory(UserError):
    """Of one rank; or what another one has told, of memory or of something else, before it ended alone."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what it says."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    own = type(error) is RuntimeError or isinstance(
        error, torch.AcceleratorError
    )  # no LeadFailed, which quotes
    return own and any(words in str(error) for words in _WORDS)


@contextmanager
def told_where(where: Callable[[], str], remedy: str) -> Iterator[None]:
    """Within it a lack of memory raises OutOfMemory.

    Args:
        where: asked when it has happened: the phase, the step, how long the texts are.
        remedy: keys to change.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{where()}: {how_much(error)}; {remedy}") from error


def end_alone(error: UserError) -> None:
    """End this process, where it is without memory and shares NCCL's communicators with others."""
    if isinstance(error, OutOfMemory) and torch.cuda.is_available():
        os._exit(USER_ERROR)


def how_much(error: BaseException) -> str:
    """What it says, with what the GPU has and had."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if not torch.cuda.is_available() or isinstance(error, MemoryError):
        return f"out of main memory ({said})"
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return (
        f"out of memory on a GPU of {total / GB:.1f} GB, of which torch's tensors have had up to "
        f"{torch.cuda.max_memory_allocated() / GB:.1f} GB, and the allocator holds "
        f"{torch.cuda.memory_reserved() / GB:.1f} GB ({'. '.join(said.split('. ')[:2]).rstrip('.')})"
    )


@contextmanager
def ending_alone(lead: Lead, rank: int, device: torch.device) -> Iterator[None]:
    """Around a rank's work: one without memory tells the others and ends at once; so does one with a user's
    mistake that may be its alone, such as a full disk where it writes. Of these, one whose collective breaks
    for it raises a UserError with its words.

    With NCCL the others wait inside of a collective until whoever started them ends them, and the
    communicators can't be left alone: the process ends here.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            if cause := lead.told_failure():
                raise OutOfMemory(cause) from error
            raise
        cause = str(error) if isinstance(error, OutOfMemory) else how_much(error)
        if lead.world_size == 1:
            raise OutOfMemory(cause) from error
        cause = f"rank {rank}: {cause}"
        lead.tell_failure(cause)
        if rank or device.type == "cuda":  # rank 0's is shown at the command's end
            print(f"paced: {cause}", file=sys.stderr, flush=True)
        if device.type == "cuda":
            os._exit(USER_ERROR)
        raise OutOfMemory(cause) from error
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else cannot_write(error)
        if told is None:
            raise
        lead.tell_failure(str(told))  # read only where it is this rank's alone
        if told is error:
            raise
        raise told from error
