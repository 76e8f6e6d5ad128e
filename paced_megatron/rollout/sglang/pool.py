"""Deals attempts out to servers, by who is free, and gives out each answer once."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from paced_megatron.errors import UserError
from paced_megatron.rollout.engine import Completion, Request
from paced_megatron.rollout.sglang.client import ServerError, jittered
from paced_megatron.rollout.sglang.generation import Generation

GROUP = 16  # attempts in one POST; see docs/performance.md
MOST_TRIES = 20  # of one attempt
LOOK_EVERY_S = 1.0
JOIN_S = 10.0
ABORTED_PAUSE_S = 1.0  # before an attempt that the server gave up is asked for again


class Asked(Protocol):
    """What the pool needs of a server: see `member.Member`."""

    @property
    def url(self) -> str: ...

    @property
    def epoch(self) -> int: ...

    def generate(self, group: Sequence[Request], how: Generation) -> list[Completion | None]: ...

    def recover(self, seen: int, error: ServerError, stop: threading.Event) -> None: ...

    def abort(self) -> None: ...


@dataclass
class _Task:
    request: Request
    tries: int = 0


class Pool:
    """A phase's attempts, and the threads that have them made: as many for each server as it takes groups at
    a time."""

    def __init__(
        self, requests: Sequence[Request], how: Generation, servers: Sequence[tuple[Asked, int]]
    ) -> None:
        """`servers`: each with the number of attempts that it is asked at a time."""
        self._how = how
        self._waiting = deque(_Task(request) for request in requests)
        self._open = len(requests)  # neither answered nor given up
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._results: queue.SimpleQueue[list[Completion] | BaseException] = queue.SimpleQueue()
        self._servers = [server for server, _ in servers]
        self._threads = [
            threading.Thread(target=self._work, args=(server, min(GROUP, concurrency)), daemon=True)
            for server, concurrency in servers
            for _ in range(max(1, concurrency // GROUP))
        ]

    def run(self) -> Iterator[list[Completion]]:
        """Yield the completions, those together that have arrived together, each once; [] from time to time
        when none has.

        Raises:
            UserError: a server refuses an attempt, or fails at it again and again.
        """
        for thread in self._threads:
            thread.start()
        left = self._open
        try:
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
                if isinstance(result, BaseException):
                    if unit:
                        self._results.put(result)  # first what has arrived
                        return unit
                    raise result
                unit += result
        except queue.Empty:
            return unit

    def _end(self, abort: bool) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if abort:
            for server in self._servers:
                server.abort()
        for thread in self._threads:
            thread.join(JOIN_S)

    # ------------------------------------------------------------------------------------ in the threads

    def _work(self, server: Asked, most: int) -> None:
        try:
            while group := self._take(most):
                seen = server.epoch
                try:
                    answers = server.generate([task.request for task in group], self._how)
                except ServerError as error:
                    self._give_back(group, error)
                    server.recover(seen, error, self._stop)
                    continue
                self._answer([answer for answer in answers if answer is not None])
                again = [task for task, answer in zip(group, answers, strict=True) if answer is None]
                if again:
                    self._stop.wait(jittered(ABORTED_PAUSE_S))
                    self._give_back(again, ServerError(f"{server.url} has aborted it"))
        except BaseException as error:
            self._results.put(error)

    def _take(self, most: int) -> list[_Task]:
        """The next group; waits while others may still give some back. Empty: there is nothing left to do."""
        with self._changed:
            while not self._waiting and self._open and not self._stop.is_set():
                self._changed.wait()
            if self._stop.is_set():
                return []
            # Towards the end the groups become smaller, so that no server works on alone.
            share = -(-len(self._waiting) // len(self._threads))
            return [self._waiting.popleft() for _ in range(min(most, share))]

    def _give_back(self, group: Sequence[_Task], error: ServerError) -> None:
        for task in group:
            task.tries += 1
            if task.tries >= MOST_TRIES:
                request = task.request
                raise UserError(
                    f"attempt {request.index} of problem {request.problem_id} failed {task.tries} times: see "
                    f"the server's log; the last time: {error}"
                ) from error
        with self._changed:
            self._waiting.extendleft(reversed(group))
            self._changed.notify_all()

    def _answer(self, completions: list[Completion]) -> None:
        if completions:
            self._results.put(completions)
        with self._changed:
            self._open -= len(completions)
            if not self._open:
                self._changed.notify_all()
