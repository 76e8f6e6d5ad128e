"""How attempts become POSTs. The server is made by hand, since a real one ends attempts when it likes; the
whole engine on a real one is in tests/sglang."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from paced_megatron.rollout.engine import Completion, Request, Sampling
from paced_megatron.rollout.sglang import pool
from paced_megatron.rollout.sglang.client import ServerError
from paced_megatron.rollout.sglang.generation import Generation
from paced_megatron.rollout.sglang.pool import Pool

HOW = Generation(Sampling(1.0, 1.0, -1, 4), (), 10, "w", "w", 60.0)
LONG_S = 30.0  # longer than any test waits


class Server:
    """Says which groups it was asked for, and ends the attempts that the test names."""

    url, epoch = "http://hand-made", 0

    def __init__(self) -> None:
        self.groups: queue.Queue[list[int]] = queue.Queue()
        self._ends: dict[int, threading.Event] = {}

    def end(self, *indices: int) -> None:
        for index in indices:
            self._ends[index].set()

    def generate(self, group: Sequence[Request], how: Generation) -> Iterator[tuple[int, Completion | None]]:
        self._ends |= {request.index: threading.Event() for request in group}
        self.groups.put([request.index for request in group])
        for position, request in enumerate(group):
            assert self._ends[request.index].wait(LONG_S)
            yield position, Completion(request, (1,), "stop", request.seed, "w")

    def recover(self, seen: int, error: ServerError, stop: threading.Event) -> None:
        raise AssertionError("nothing fails here")

    def abort(self) -> None:
        pass


def started(server: Server, places: int, attempts: int) -> threading.Thread:
    requests = [Request("problem", index, (1, 2), index) for index in range(attempts)]
    run = threading.Thread(target=lambda: list(Pool(requests, HOW, [(server, places)]).run()), daemon=True)
    run.start()
    return run


def test_the_first_post_takes_all_places_and_the_next_one_waits_for_a_quarter_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "GATHER_S", LONG_S)
    server = Server()
    run = started(server, places=8, attempts=12)
    assert server.groups.get(timeout=LONG_S) == list(range(8))
    server.end(0)
    with pytest.raises(queue.Empty):
        server.groups.get(timeout=0.3)
    server.end(1)
    assert server.groups.get(timeout=LONG_S) == [8, 9]
    server.end(*range(2, 10))
    assert sorted(server.groups.get(timeout=LONG_S)) == [10, 11]
    server.end(10, 11)
    run.join(LONG_S)
    assert not run.is_alive()


def test_one_free_place_is_filled_when_no_other_has_become_free_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "GATHER_S", 0.2)
    server = Server()
    run = started(server, places=8, attempts=12)
    server.groups.get(timeout=LONG_S)
    server.end(0)
    assert server.groups.get(timeout=LONG_S) == [8]
    server.end(*range(1, 9))
    rest: list[int] = []
    while len(rest) < 3:
        rest += (group := server.groups.get(timeout=LONG_S))
        server.end(*group)
    run.join(LONG_S)
    assert not run.is_alive()


def test_a_run_that_is_left_while_places_are_gathered_asks_for_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A POST after the servers were told to abort would be made to its end for nobody."""
    monkeypatch.setattr(pool, "GATHER_S", LONG_S)
    monkeypatch.setattr(pool, "JOIN_S", 0.5)  # threads that wait for an attempt stay behind
    server = Server()
    requests = [Request("problem", index, (1, 2), index) for index in range(12)]
    run = Pool(requests, HOW, [(server, 8)])
    units = run.run()
    threading.Thread(target=lambda: (server.groups.get(timeout=LONG_S), server.end(0)), daemon=True).start()
    assert [completion.request.index for completion in first_of(units)] == [0]
    assert eventually(lambda: run._lanes[0].gathering)
    units.close()
    with pytest.raises(queue.Empty):
        server.groups.get(timeout=0.3)
    server.end(*range(1, 8))


def first_of(units: Iterator[list[Completion]]) -> list[Completion]:
    return next(unit for unit in units if unit)


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONG_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_so()


def test_attempts_that_are_fewer_than_the_free_places_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GATHER_S", LONG_S)
    server = Server()
    run = started(server, places=8, attempts=9)
    server.groups.get(timeout=LONG_S)
    server.end(0)
    assert server.groups.get(timeout=LONG_S / 2) == [8]
    server.end(*range(1, 9))
    run.join(LONG_S)
    assert not run.is_alive()
