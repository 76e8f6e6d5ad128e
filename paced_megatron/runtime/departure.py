"""The end of a job that fails on rank 0 alone, with the line that the user gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from paced_megatron.errors import UserError
from paced_megatron.runtime.lead import READ_S

LEFT = "left"  # the store's key for how many ranks other than 0 have


@contextmanager
def leaving_last(store: dist.Store, rank: int, world_size: int) -> Iterator[None]:
    """Around a rank's part in the job, its process groups included: when it ends with a UserError, rank 0
    leaves last.

    The others wait in a collective, which breaks when rank 0 leaves its groups; only then do they look for
    the cause in the store, which rank 0's process may serve. One whose part has ended well leaves no word:
    rank 0 may have gone with the store, of which torch would write a backtrace into the rank's log.

    Args:
        world_size: of the ranks that do this.
    """
    try:
        yield
    except Exception as error:
        if rank:
            with suppress(RuntimeError):  # the store has gone with rank 0
                store.add(LEFT, 1)
        elif isinstance(error, UserError):
            _wait_for_the_others(store, world_size)
        raise


def _wait_for_the_others(store: dist.Store, world_size: int) -> None:
    deadline = time.monotonic() + READ_S
    with suppress(RuntimeError):
        while store.add(LEFT, 0) < world_size - 1 and time.monotonic() < deadline:
            time.sleep(0.02)
