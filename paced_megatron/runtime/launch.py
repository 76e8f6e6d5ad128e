"""Start a job's processes on this host, watch over them, and end them together.

The processes find RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in their environment, as under
torchrun; a process that torchrun or a cluster started finds them too and joins without coming through here
(launched.py).

Plain processes instead of torchrun's elastic agent, because of what a user sees: the agent turns Ctrl-C into
SIGTERM, prints a banner around every failure, and leaves its workers running when it is itself killed. What
the agent is for (restarts, several hosts) belongs to the cluster's launcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paced_megatron.exit_codes import STOPPED, USER_ERROR
from paced_megatron.runtime.files import make_folder
from paced_megatron.runtime.signals import SAME_REQUEST_S, STOP_SIGNALS

STOP_GRACE_S = 20.0  # after Ctrl-C, for a clean end
FAILURE_GRACE_S = 5.0  # after one rank failed, for the others to end by themselves
POLL_S = 0.05
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def free_port() -> int:
    """A TCP port that nobody listens on now.

    It lies below the range from which the kernel takes ports for outgoing connections, so that none of these
    is given it between now and its use.

    Raises:
        OSError: no free port among many tried.
    """
    for _ in range(200):
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("found no free TCP port between 20000 and 32000")


def launch(
    argv: Sequence[str], world_size: int, module: str = "paced_megatron.cli", log_dir: Path | None = None
) -> int:
    """Run `python -m MODULE ARGV...` in `world_size` processes on this host; return the job's exit code.

    Rank 0's stdout and stderr are this process's own. The others write to LOG_DIR/rank-N.log (appended;
    without a folder, to files that are deleted at the end); when one of them is the first to fail, its last
    lines are shown on stderr.

    Ctrl-C and SIGHUP reach every rank once, as SIGINT; a second one, or 20 seconds without an end, kills
    them. SIGTERM and SIGUSR1 reach every rank as what they are (runtime/signals.py): they end by themselves,
    in whatever time a step and a checkpoint take; a second one kills them. When a rank fails the others have
    5 seconds to end by themselves. When this process is killed they die with it (Linux). To be called from
    the main thread, the only one that may handle signals.

    Returns:
        0; or the code of the rank that failed first (2 for a user's mistake; 128 + N for a rank killed by
        signal N); or 75 where the ranks have stopped because they were asked to; or 128 + N where the second
        signal N had to kill them, or Ctrl-C (130) or SIGHUP (129) came.
    """
    with contextlib.ExitStack() as stack:
        if log_dir is None:
            log_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paced-")))
        make_folder(log_dir)
        job = _Job([sys.executable, "-m", module, *argv], world_size, log_dir)
        stack.callback(job.kill)
        stack.enter_context(_signals_to(job.signals))
        job.start()
        return job.wait()


@dataclass
class _Rank:
    process: subprocess.Popen[bytes]
    log: Path | None  # None for rank 0
    log_start: int = 0  # where this run's lines begin


@dataclass
class _Job:
    command: list[str]
    world_size: int
    log_dir: Path
    ranks: list[_Rank] = field(default_factory=list)
    signals: list[tuple[int, float]] = field(default_factory=list)  # that came, and when
    handed_on: bool = False  # whether the ranks have been sent the first of them
    deadline: float = float("inf")  # when what still runs is killed

    def start(self) -> None:
        port = free_port()
        die_with_me = _prepared(os.getpid())
        for rank in range(self.world_size):
            self.ranks.append(self._start_rank(rank, port, die_with_me))

    def _start_rank(self, rank: int, port: int, die_with_me: Callable[[], None]) -> _Rank:
        log = None if rank == 0 else self.log_dir / f"rank-{rank}.log"
        with contextlib.ExitStack() as stack:
            output = None if log is None else stack.enter_context(log.open("ab"))
            # A session of its own: the terminal's Ctrl-C reaches us alone, and we hand it on once; and what a
            # rank starts can be killed with it. It has no terminal to read from.
            process = subprocess.Popen(
                self.command,
                env=_environment(rank, self.world_size, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_me,
            )
            return _Rank(process, log, 0 if output is None else output.tell())

    def wait(self) -> int:
        failed: int | None = None  # the rank that failed first
        killed_by: int | None = None  # the signal after which we killed them
        late = False
        while any(rank.process.poll() is None for rank in self.ranks):
            self._hand_on()
            if failed is None and not self._interrupted:
                failed = self._first_failed()
                if failed is not None:
                    self.deadline = time.monotonic() + FAILURE_GRACE_S
                elif self.deadline == float("inf") and self._one_has_stopped:
                    self.deadline = time.monotonic() + STOP_GRACE_S
            again = self._second_signal()
            if again is not None or time.monotonic() > self.deadline:
                killed_by = again
                late = failed is None and self._one_has_stopped  # it had only to leave, all is saved
                self.kill()
            time.sleep(POLL_S)
        if self._interrupted or killed_by is not None:
            return 128 + (self.signals[0][0] if killed_by is None else killed_by)
        failed = self._first_failed() if failed is None and not late else failed
        if failed is None:
            return STOPPED if self._one_has_stopped else 0
        self._explain(failed)
        return _exit_code(self.ranks[failed].process)

    def _first_failed(self) -> int | None:
        codes = enumerate(rank.process.poll() for rank in self.ranks)
        return next((number for number, code in codes if code not in (None, 0, STOPPED)), None)

    @property
    def _one_has_stopped(self) -> bool:
        return any(rank.process.poll() == STOPPED for rank in self.ranks)

    @property
    def _interrupted(self) -> bool:
        """Whether the first thing that came was Ctrl-C or SIGHUP."""
        return bool(self.signals) and self.signals[0][0] not in STOP_SIGNALS

    def _hand_on(self) -> None:
        """Send the ranks the first signal that came: as it is, or SIGINT, which has 20 seconds."""
        if not self.signals or self.handed_on:
            return
        number = self.signals[0][0]
        self.handed_on = True
        if self._interrupted:
            number, self.deadline = signal.SIGINT, time.monotonic() + STOP_GRACE_S
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.process.send_signal(number)

    def _second_signal(self) -> int | None:
        """The second one that came. Stop signals that come together are one request (runtime/signals.py)."""
        for number, when in self.signals[1:]:
            first, first_at = self.signals[0]
            together = number in STOP_SIGNALS and first in STOP_SIGNALS and when - first_at <= SAME_REQUEST_S
            if not together:
                return number
        return None

    def kill(self) -> None:
        """Kill what still runs, and what it has started."""
        for rank in self.ranks:
            if rank.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rank.process.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.process.wait()

    def _explain(self, number: int) -> None:
        """Say on stderr what rank 0's own output does not say."""
        rank, code = self.ranks[number], self.ranks[number].process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            memory = " (out of memory?)" if name == "SIGKILL" else ""
            print(f"rank {number} was killed by {name}{memory}; the job is ended", file=sys.stderr)
        if rank.log is None:
            return
        if code == USER_ERROR and self.ranks[0].process.returncode == USER_ERROR:
            return  # the same mistake, which rank 0 has shown
        lines = _lines_from(rank.log, rank.log_start)
        if code == USER_ERROR:
            ours = [line for line in lines if line.startswith("paced: ")]  # a library may have gone on
            print("\n".join(ours[-1:] or lines[-1:]), file=sys.stderr)
        elif lines:
            print(f"rank {number} failed first; the end of {rank.log}:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in lines[-TAIL_LINES:]), file=sys.stderr)


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _lines_from(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    env = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",  # what a rank said before it was killed is in its log
    }
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // world_size)))
    if "lo" in (name for _, name in socket.if_nameindex()):
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works on a host whose own name leads nowhere, too
    return env


def _prepared(parent: int) -> Callable[[], None]:
    """What a new rank does first: `die_with`, and keep stop signals for when it listens."""
    ask = die_with(parent)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        ask()

    return prepare


def die_with(parent: int) -> Callable[[], None]:
    """What a new process does first: ask the kernel to be killed when `parent` ends (only Linux can)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: not between fork and exec

    def ask() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where a shell started us with &
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it was killed before we could ask
                os._exit(1)

    return ask


@contextlib.contextmanager
def _signals_to(came: list[tuple[int, float]]) -> Iterator[None]:
    """Note SIGINT, SIGHUP and the stop signals in `came`, with the time, for a while; except those that are
    ignored (as under nohup).

    Only noted: a handler that waited for a process could deadlock with the wait that it interrupts.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, *STOP_SIGNALS)}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, lambda signum, frame: came.append((signum, time.monotonic())))
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
