"""Worker processes that compare answers: one that hangs, grows or dies costs one answer, and is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.verifier_worker import READY

MODULE = "paced_megatron.problems.verifier_worker"
SOURCES = Path(__file__).resolve().parents[2]
# A worker stops itself at the time limit. One that is in somebody's C code can't, and is killed this much
# later.
GRACE_S = 1.0
START_S = 120.0  # for an import that takes half a second: a busy machine, a cold network disk


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    question: int | None = None  # the number of the pair that it is at
    deadline: float = 0.0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


class VerifierPool:
    """Judges pairs of answers by value in up to `workers` processes.

    They start with the first pair and live until close(), or until the thread that started them ends (then
    others take their place). They are killed with this process, also by kill -9. Any thread may ask; one
    batch is judged at a time.
    """

    def __init__(self, workers: int, memory_mib: int) -> None:
        self._count = workers
        self._memory_mib = memory_mib
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _kill_all, self._workers)  # also when Python ends

    def close(self) -> None:
        """End the workers. A pair that comes later starts new ones."""
        with self._lock:
            _kill_all(self._workers)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def judge(self, pairs: Sequence[tuple[str, str]], timeout_s: float) -> list[Outcome]:
        """The verdict on each (answer, gold), in their order.

        TIMED_OUT where it took longer than timeout_s, or where the worker died twice at the same pair (a
        crash, a kill): a first death may be nobody's fault, and the pair is asked once more. A worker that is
        refused memory raises MemoryError, which math-verify takes as any error: not readable, or not equal.
        """
        with self._lock, self._none_left_busy():
            verdicts: dict[int, Outcome] = {}
            waiting = deque(range(len(pairs)))
            died: set[int] = set()  # pairs at which a worker has died
            while len(verdicts) < len(pairs):
                self._ask(pairs, waiting, timeout_s)
                for number, verdict in self._replies():
                    if verdict is not None:
                        verdicts[number] = verdict
                    elif number in died:
                        verdicts[number] = Outcome.TIMED_OUT
                    else:
                        died.add(number)
                        waiting.appendleft(number)
            return [verdicts[number] for number in range(len(pairs))]

    def _ask(self, pairs: Sequence[tuple[str, str]], waiting: deque[int], timeout_s: float) -> None:
        """Give every idle worker a pair, as long as there are any."""
        idle = sum(worker.question is None for worker in self._workers)
        missing = min(self._count - len(self._workers), len(waiting) - idle)
        new = [self._start() for _ in range(missing)]
        for worker in new:
            self._await_start(worker)
        for worker in [worker for worker in self._workers if worker.question is None]:
            if not waiting:
                return
            answer, gold = pairs[waiting[0]]
            question = {"answer": answer, "gold": gold, "timeout_s": timeout_s}
            try:
                worker.pipe.send_bytes(json.dumps(question).encode())
            except OSError:  # it ended while it was idle; another one is started in the next round
                self._remove(worker)
                continue
            worker.question = waiting.popleft()
            worker.deadline = time.monotonic() + timeout_s + GRACE_S

    def _replies(self) -> Iterator[tuple[int, Outcome | None]]:
        """Wait for one at least: (number of the pair, its verdict, or None where the worker died at it)."""
        busy = [worker for worker in self._workers if worker.question is not None]
        if not busy:
            return
        left = min(worker.deadline for worker in busy) - time.monotonic()
        ready = wait([worker.pipe for worker in busy], max(left, 0.0))
        for worker in busy:
            assert worker.question is not None
            if worker.pipe in ready:
                number, worker.question = worker.question, None
                try:
                    yield number, Outcome(json.loads(worker.pipe.recv_bytes()))
                except (EOFError, OSError):
                    self._remove(worker)
                    yield number, None
            elif time.monotonic() >= worker.deadline:
                self._remove(worker)
                yield worker.question, Outcome.TIMED_OUT

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        arguments = [str(theirs.fileno()), str(os.getpid()), str(self._memory_mib)]
        path = os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
        with theirs:
            process = subprocess.Popen(
                # -P: a sympy.py in the working directory is not the one that is meant
                [sys.executable, "-P", "-m", MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path},
            )
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _await_start(self, worker: _Worker) -> None:
        try:
            if worker.pipe.poll(START_S) and worker.pipe.recv_bytes() == READY:
                return
        except (EOFError, OSError):
            worker.process.wait(START_S)  # so that its exit code is its own
        self._remove(worker)
        raise RuntimeError(
            f"the verifier's worker did not start (exit code {worker.process.returncode}); try "
            f"`{sys.executable} -c 'import math_verify'`, and more problems.verifier.memory_mib"
        )

    def _remove(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    @contextlib.contextmanager
    def _none_left_busy(self) -> Iterator[None]:
        """After Ctrl-C within a batch no worker may answer the next batch with this one's verdict."""
        try:
            yield
        finally:
            for worker in [worker for worker in self._workers if worker.question is not None]:
                self._remove(worker)


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()
