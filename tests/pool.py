"""The worker processes that all distributed tests of a pytest session share: starting them is what costs.

    def sums(rank, world_size, scale):                  # module-level, in the test's file
        x = torch.tensor([scale * rank])
        dist.all_reduce(x)
        return x.item()

    @pytest.mark.parallel
    def test_it_sums(pool):
        assert pool.run(sums, 4, 10.0) == [60.0] * 4

Each job has a gloo group of its own. A rank that raises, dies or hangs makes `run` raise PoolError, which
tells of every rank separately. `pool_worker.py` is the other side.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

from pool_worker import Job, Report

MAX_WORLD_SIZE = 4
GRACE_S = 5.0  # what the other ranks get when one has failed or died
STARTUP_S = 120.0  # importing torch, or a test's file, in four processes on a busy machine
CLEAN_S = 20.0
SHOWN_CHARACTERS = 4000  # of a rank's output


class PoolError(Exception):
    """A job did not end well. The message has a paragraph per rank; `states` has a word per rank.

    The words: "finished", "failed" (it raised), "died" (its process ended), "hung" (it was still at it when
    it was ended).
    """

    def __init__(self, message: str, states: Sequence[str]):
        super().__init__(message)
        self.states = list(states)


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    output: Path
    output_start: int = 0  # where this job's output begins

    def receive(self) -> Any:
        """The worker's next message, or None when its process has ended."""
        try:
            return pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None

    def said(self) -> str:
        with self.output.open("rb") as file:
            file.seek(self.output_start)
            text = file.read().decode(errors="replace").rstrip()
        return text if len(text) <= SHOWN_CHARACTERS else "[...]" + text[-SHOWN_CHARACTERS:]


@dataclass
class Pool:
    """Up to four worker processes, started when first needed, and anew after they had to be killed."""

    folder: Path
    grace: float = GRACE_S
    workers: list[Worker] = field(default_factory=list)
    jobs: int = 0
    started: int = 0

    def run(self, fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = 30.0) -> list[Any]:
        """Run `fn(rank, world_size, *args)` in `world_size` processes; return the results in rank order.

        Args:
            fn: a module-level function; its file is imported in the workers.
            world_size: 1 to 4.
            args: pickled, as the results are (tensors are copied).
            timeout: seconds for the job itself, without starting workers and importing fn's file.

        Raises:
            PoolError: a rank raised, died, or was not done in time.
        """
        if not 1 <= world_size <= MAX_WORLD_SIZE:
            raise ValueError(f"the pool has {MAX_WORLD_SIZE} workers; world_size={world_size}")
        jobs = self._jobs_for(fn, world_size, args, timeout)
        try:
            self._start(world_size)
            workers = self.workers[:world_size]
            for worker, job in zip(workers, jobs, strict=True):
                worker.output_start = worker.output.stat().st_size
                with contextlib.suppress(OSError):  # dead since the last job: _collect sees it
                    worker.pipe.send_bytes(pickle.dumps(job))
            reports, states, cause = self._collect(workers, timeout, loading=set(range(world_size)))
            name = f"{Path(jobs[0].path).name}::{jobs[0].qualname} on {world_size} ranks"
            if "died" in states or "hung" in states:
                self._ask_where(workers, states)
                self.kill()
            else:
                self._clean(workers, name)
            if cause is not None:
                raise PoolError(_tell(f"{name}: {cause}", workers, reports, states), states)
            return [pickle.loads(report.result) for report in reports if report is not None and report.result]
        except PoolError:
            raise
        except BaseException:  # Ctrl-C above all: nobody knows what the workers are doing
            self.kill()
            raise

    def kill(self) -> None:
        """Kill every worker, and what it has started; the next job starts new ones."""
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait()
            worker.pipe.close()
        self.workers = []

    def _jobs_for(
        self, fn: Callable[..., Any], world_size: int, args: tuple[Any, ...], timeout: float
    ) -> list[Job]:
        path = getattr(sys.modules.get(fn.__module__), "__file__", None)
        if path is None or "<" in fn.__qualname__:
            raise TypeError(f"{fn.__qualname__} is no module-level function of a file: no worker can find it")
        self.jobs += 1
        store = str(self.folder / f"store-{self.jobs}")
        pickled = pickle.dumps(args)
        return [
            Job(str(path), fn.__module__, fn.__qualname__, pickled, rank, world_size, store, timeout)
            for rank in range(world_size)
        ]

    def _start(self, world_size: int) -> None:
        if any(worker.process.poll() is not None for worker in self.workers):
            self.kill()
        new = [self._new_worker() for _ in range(world_size - len(self.workers))]
        self.workers += new
        deadline = time.monotonic() + STARTUP_S
        for worker in new:
            if not worker.pipe.poll(max(0.0, deadline - time.monotonic())) or worker.receive() != "ready":
                said = worker.said()
                self.kill()
                raise PoolError(f"a worker process did not start:\n{said}", ["died"])

    def _new_worker(self) -> Worker:
        self.started += 1
        ours, theirs = Pipe()
        output = self.folder / f"worker-{self.started}.log"
        env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if Path("/sys/class/net/lo").exists():
            env["GLOO_SOCKET_IFNAME"] = "lo"  # a host whose name leads nowhere can still talk to itself
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            env.pop(name, None)
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("pool_worker.py")), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=env,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to handle, and its children can be killed with it
            )
        theirs.close()
        return Worker(process, ours, output)

    def _collect(
        self, workers: list[Worker], timeout: float, loading: set[int]
    ) -> tuple[list[Report | None], list[str], str | None]:
        """Wait for every rank's report: (reports, states, what went wrong first or None).

        The clock of `timeout` starts when no rank of `loading` is importing the test's file any more.
        """
        reports: list[Report | None] = [None] * len(workers)
        states = ["hung"] * len(workers)
        ranks = {worker.pipe: rank for rank, worker in enumerate(workers)}
        cause: str | None = None
        deadline = time.monotonic() + (STARTUP_S if loading else timeout)
        while ranks:
            left = deadline - time.monotonic()
            if left <= 0:
                late = f"{STARTUP_S:g} s of importing its file" if loading else f"{timeout:g} s"
                cause = cause or f"not done after {late}"
                break
            for pipe in wait(list(ranks), timeout=left):
                assert isinstance(pipe, Connection)
                rank = ranks[pipe]
                report = workers[rank].receive()
                if rank in loading:
                    loading.remove(rank)
                    if not loading and cause is None:
                        deadline = time.monotonic() + timeout
                if report == "loaded":
                    continue
                del ranks[pipe]
                reports[rank] = report
                states[rank] = "died" if report is None else "failed" if report.error else "finished"
                if states[rank] != "finished" and cause is None:
                    cause = f"rank {rank} {states[rank]}"
                    deadline = min(deadline, time.monotonic() + self.grace)
        return reports, states, cause

    def _clean(self, workers: list[Worker], name: str) -> None:
        """Take the job's world down in all workers together: when one leaves a group early it breaks."""
        for worker in workers:
            worker.pipe.send_bytes(pickle.dumps("clean"))
        reports, states, cause = self._collect(workers, CLEAN_S, loading=set())
        if cause is not None:
            self.kill()
            raise PoolError(_tell(f"cleaning up after {name}: {cause}", workers, reports, states), states)

    def _ask_where(self, workers: list[Worker], states: list[str]) -> None:
        """Let hung ranks write where they are (faulthandler, into their output)."""
        hung = [worker for worker, state in zip(workers, states, strict=True) if state == "hung"]
        for worker in hung:
            worker.process.send_signal(signal.SIGUSR1)
        if hung:
            time.sleep(0.2)


def _tell(headline: str, workers: list[Worker], reports: list[Report | None], states: list[str]) -> str:
    parts = [headline]
    for rank, (worker, report, state) in enumerate(zip(workers, reports, states, strict=True)):
        part = f"--- rank {rank} {state}"
        if report is not None:
            part += f" after {report.seconds:.1f} s"
        if state == "died":
            part += f", exit code {worker.process.wait()}"
        if report is not None and report.error:
            part += "\n" + report.error.rstrip()
        if said := worker.said():
            part += f"\n    its output:\n{said}"
        parts.append(part)
    return "\n".join(parts)


@contextlib.contextmanager
def new_pool() -> Iterator[Pool]:
    """A pool of one's own, for tests of the pool."""
    folder = Path(tempfile.mkdtemp(prefix="paced-pool-"))
    pool = Pool(folder)
    try:
        yield pool
    finally:
        pool.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """The session's pool of four worker processes, started when first needed."""
    with new_pool() as pool:
        yield pool
