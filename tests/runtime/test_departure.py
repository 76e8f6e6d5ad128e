"""Who leaves a failed job last: runtime/departure.py. Ranks are threads here, on one store."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import torch.distributed as dist

from paced_megatron.errors import UserError
from paced_megatron.runtime import departure
from paced_megatron.runtime.departure import LEFT, leaving_last
from paced_megatron.runtime.signals import Stopped


def test_rank_0_leaves_with_a_user_s_mistake_when_the_others_have_left(monkeypatch) -> None:
    monkeypatch.setattr(departure, "READ_S", 60.0)  # a machine may stall for as long as it is by itself
    store, left = dist.HashStore(), []

    def fail() -> None:
        with suppress(UserError), leaving_last(store, 0, 3):
            raise UserError("the disk is full")
        left.append(0)

    first = threading.Thread(target=fail)
    first.start()
    for rank in (1, 2):
        first.join(0.2)
        assert first.is_alive()
        with suppress(RuntimeError), leaving_last(store, rank, 3):
            left.append(rank)
            raise RuntimeError("Connection closed by peer")
    first.join(50)
    assert left == [1, 2, 0]


def test_it_does_not_wait_where_nothing_or_something_else_has_happened(monkeypatch) -> None:
    monkeypatch.setattr(departure, "_wait_for_the_others", lambda *args: pytest.fail("it waited"))
    with leaving_last(dist.HashStore(), 0, 2):
        pass
    with pytest.raises(ZeroDivisionError), leaving_last(dist.HashStore(), 0, 2):
        raise ZeroDivisionError


def test_a_rank_whose_part_has_ended_well_leaves_no_word() -> None:
    """Rank 0 may have gone before, and its store with it: torch wrote a backtrace of that into the log."""
    store = dist.HashStore()
    with leaving_last(store, 1, 2):
        pass
    with pytest.raises(Stopped), leaving_last(store, 1, 2):
        raise Stopped("SIGTERM", "all is saved")
    assert not store.check([LEFT])
