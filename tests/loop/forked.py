"""`paced` in processes that are forked from one which has imported everything: a start costs a tenth of a
second rather than ten. The command line, its handling of signals and its way to end are the real ones.

    with Forkery(folder) as forkery:
        job = forkery.start(["run", recipe], world_size=2)     # as torchrun would start its ranks
        job.kill(rank=1)
        codes = job.wait()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from loop.recipes import ROOT
from paced_megatron.runtime.launch import die_with, free_port

STARTUP_S, END_S = 120.0, 120.0


@dataclass
class ForkedRank:
    """One process; its files in `folder`: out, err, pid, and status once it has ended."""

    folder: Path

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    @property
    def code(self) -> int | None:
        """As subprocess has it: -9 for one that was killed; None while it runs."""
        status = self.folder / "status"
        return int(status.read_text().split()[0]) if status.exists() else None

    @property
    def cpu_s(self) -> float:
        """What it took of a core, once it has ended."""
        status = self.folder / "status"
        return float(status.read_text().split()[1]) if status.exists() else 0.0

    def send(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def said(self) -> tuple[str, str]:
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()


@dataclass
class ForkedJob:
    """The ranks of a job, without anybody who watches over them."""

    ranks: list[ForkedRank]

    @property
    def runs(self) -> bool:
        return any(rank.code is None for rank in self.ranks)

    def kill(self) -> None:
        for rank in self.ranks:
            rank.send(signal.SIGKILL)

    def wait(self, seconds: float = END_S) -> list[int | None]:
        """The codes of all ranks; those that have not ended in time are killed, and their code is None."""
        deadline = time.monotonic() + seconds
        while self.runs and time.monotonic() < deadline:
            time.sleep(0.002)
        codes = [rank.code for rank in self.ranks]
        self.kill()
        return codes

    def said(self) -> str:
        return "\n".join(f"rank {number}:\n" + "\n".join(r.said()) for number, r in enumerate(self.ranks))


@dataclass
class Forkery:
    """The process that is forked, and a folder for what its children say."""

    folder: Path
    started: int = 0
    jobs: list[ForkedJob] = field(default_factory=list)

    def __enter__(self) -> Forkery:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self.jobs:
            job.kill()
        self._process.kill()  # and the others with it
        self._process.wait()

    def start(self, argv: list[str | Path], world_size: int = 1) -> ForkedJob:
        """`paced ARGV` in `world_size` processes."""
        ranks = []
        port = free_port()
        for rank in range(world_size):
            self.started += 1
            folder = self.folder / f"process-{self.started}"
            folder.mkdir(parents=True)
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
            }
            order = {
                "folder": str(folder),
                "argv": [str(argument) for argument in argv],
                "environ": place if world_size > 1 else {},
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            ranks.append(ForkedRank(folder))
        deadline = time.monotonic() + STARTUP_S
        while not all((rank.folder / "pid").exists() for rank in ranks):
            assert time.monotonic() < deadline and self._process.poll() is None
            time.sleep(0.002)
        self.jobs.append(ForkedJob(ranks))
        return self.jobs[-1]

    def cpu_s(self) -> float:
        """What all processes that have ended took of a core."""
        return sum(rank.cpu_s for job in self.jobs for rank in job.ranks)

    def run(self, argv: list[str | Path], world_size: int = 1) -> None:
        """To its end, which has to be a good one."""
        job = self.start(argv, world_size)
        assert job.wait() == [0] * world_size, job.said()


def _serve() -> None:
    """In the process that is forked: an order a line."""
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import paced_megatron.cli
    import paced_megatron.report
    import paced_megatron.run  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    die_with_me = die_with(os.getpid())
    for line in sys.stdin:
        if os.fork() == 0:
            die_with_me()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_keep(json.loads(line)))


def _keep(order: dict[str, object]) -> int:
    """Run an order in a child, and write down how it ended."""
    folder = Path(str(order["folder"]))
    die_with_me = die_with(os.getpid())
    pid = os.fork()
    if pid == 0:
        die_with_me()
        _work(order, folder)
    _write(folder / "pid", str(pid))
    _, status, used = os.wait4(pid, 0)
    _write(folder / "status", f"{os.waitstatus_to_exitcode(status)} {used.ru_utime + used.ru_stime}")
    return 0


def _write(path: Path, text: str) -> None:
    path.with_suffix(".part").write_text(text)
    os.rename(path.with_suffix(".part"), path)


def _work(order: dict[str, object], folder: Path) -> None:
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
        os.environ.update(order["environ"])  # type: ignore[call-overload]
        from paced_megatron.cli import main

        code = main(order["argv"])  # type: ignore[arg-type]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
