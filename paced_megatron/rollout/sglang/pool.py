"""Deals attempts out to servers, by who is free, and gives out each answer once."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paced_megatron.errors import UserError
from paced_megatron.rollout.engine import Completion, Request
from paced_megatron.rollout.sglang.client import ServerError, jittered
from paced_megatron.rollout.sglang.generation import Generation

GROUP = 64  # attempts in one POST, at most
POSTS = 64  # at a time to one server, at most
# A POST interrupts a server that decodes, so places that became free are filled together: when there are as
# many as this part of all, or after so many seconds (docs/performance.md has what that saves).
GATHER_SHARE = 0.25
GATHER_S = 0.5
MOST_TRIES = 20  # of one attempt
ABORTED_PAUSE_S = 1.0  # before an attempt that the server gave up is asked for again
LOOK_EVERY_S = 1.0
JOIN_S = 10.0


class Asked(Protocol):
    """What the pool needs of a server: see `member.Member`."""

    @property
    def url(self) -> str: ...

    @property
    def epoch(self) -> int: ...

    def generate(
        self, group: Sequence[Request], how: Generation
    ) -> Iterator[tuple[int, Completion | None]]: ...

    def recover(self, seen: int, error: ServerError, stop: threading.Event) -> None: ...

    def abort(self) -> None: ...


@dataclass
class _Task:
    request: Request
    tries: int = 0


@dataclass
class _Lane:
    """A server, and how many attempts more it may be asked for now."""

    server: Asked
    places: int
    changed: threading.Condition  # all lanes' are on one lock
    enough: threading.Condition  # the same lock; for the thread that gathers
    free: int = field(init=False)
    recovering: int = 0  # threads that wait for the server to be ready again
    gathering: bool = False  # one of its threads waits for more places to become free

    def __post_init__(self) -> None:
        self.free = self.places

    @property
    def has_enough(self) -> bool:
        """Whether as many places are free as are worth a POST."""
        return self.free >= GATHER_SHARE * self.places


class Pool:
    """A phase's attempts, and the threads that have them made."""

    def __init__(
        self, requests: Sequence[Request], how: Generation, servers: Sequence[tuple[Asked, int]]
    ) -> None:
        """`servers`: each with the number of attempts that it is asked for at a time."""
        self._how = how
        self._waiting = deque(_Task(request) for request in requests)
        self._open = len(requests)  # not answered yet
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._results: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        self._lanes = [
            _Lane(server, places, threading.Condition(self._lock), threading.Condition(self._lock))
            for server, places in servers
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), daemon=True)
            for lane in self._lanes
            for _ in range(min(lane.places, POSTS))
        ]

    def run(self) -> Iterator[list[Completion]]:
        """Yield the completions, those together that have arrived together, each once; [] from time to time
        when none has.

        Raises:
            UserError: a server refuses an attempt, or fails at it again and again.
        """
        left = self._open
        try:
            for thread in self._threads:
                thread.start()
            while left:
                unit = self._next()
                left -= len(unit)
                yield unit
        finally:
            self._end(abort=left > 0)

    def _next(self) -> list[Completion]:
        unit: list[Completion] = []
        try:
            while True:
                result = self._results.get(timeout=0 if unit else LOOK_EVERY_S)
                if isinstance(result, Completion):
                    unit.append(result)
                elif unit:
                    self._results.put(result)  # first what has arrived
                    return unit
                else:
                    raise result
        except queue.Empty:
            return unit

    def _end(self, abort: bool) -> None:
        self._stop.set()
        with self._lock:
            self._wake_all()
        if abort:
            for lane in self._lanes:
                lane.server.abort()
        deadline = time.monotonic() + JOIN_S  # for all of them: many may wait for one server that hangs
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    # ------------------------------------------------------------------------------------ in the threads

    def _work(self, lane: _Lane) -> None:
        try:
            while group := self._take(lane):
                self._ask(lane, group)
        except BaseException as error:
            self._results.put(error)

    def _ask(self, lane: _Lane, group: list[_Task]) -> None:
        """Have a group made; what is not answered goes back."""
        seen, left = lane.server.epoch, dict(enumerate(group))
        try:
            for position, completion in lane.server.generate([task.request for task in group], self._how):
                if completion is not None:
                    self._answer(lane, completion)
                    del left[position]
        except ServerError as error:
            with self._lock:
                lane.recovering += 1
            self._give_back(lane, left.values(), error)
            lane.server.recover(seen, error, self._stop)
            with self._lock:
                lane.recovering -= 1
                self._wake_all()
            return
        if left and not self._stop.wait(jittered(ABORTED_PAUSE_S)):
            self._give_back(lane, left.values(), ServerError(f"{lane.server.url} has aborted it"))

    def _take(self, lane: _Lane) -> list[_Task]:
        """The next group; waits while there is none, or no place free. Empty: there is nothing left to do."""
        with self._lock:
            while not (self._stop.is_set() or not self._open):
                if not (self._waiting and lane.free) or lane.recovering or lane.gathering:
                    lane.changed.wait()
                    continue
                if lane.free < len(self._waiting):
                    self._gather(lane)
                if lane.recovering or self._stop.is_set():  # meanwhile
                    continue
                share = -(-len(self._waiting) // len(self._lanes))  # so that no server gets all of it
                if number := min(lane.free, share, GROUP):
                    lane.free -= number
                    if lane.free and self._waiting:
                        lane.changed.notify()  # there is work for one more of its threads
                    return [self._waiting.popleft() for _ in range(number)]
            return []

    def _gather(self, lane: _Lane) -> None:
        """Wait a moment, with the lock let go, for more places to become free."""
        lane.gathering = True
        lane.enough.wait_for(lambda: lane.has_enough or self._stop.is_set(), GATHER_S)
        lane.gathering = False

    def _wake_all(self) -> None:
        for lane in self._lanes:
            lane.changed.notify_all()
            lane.enough.notify_all()

    def _give_back(self, lane: _Lane, tasks: Collection[_Task], error: ServerError) -> None:
        for task in tasks:
            task.tries += 1
            if task.tries >= MOST_TRIES:
                request = task.request
                raise UserError(
                    f"attempt {request.index} of problem {request.problem_id} failed {task.tries} times: see "
                    f"the server's log; the last time: {error}"
                ) from error
        with self._lock:
            lane.free += len(tasks)
            self._waiting.extendleft(reversed(list(tasks)))
            self._wake_all()

    def _answer(self, lane: _Lane, completion: Completion) -> None:
        self._results.put(completion)
        with self._lock:
            lane.free += 1
            self._open -= 1
            if not self._open:
                self._wake_all()
            elif lane.gathering:
                lane.enough.notify()
            else:
                lane.changed.notify()  # one thread has work now; waking all 64 costs more than the answer
