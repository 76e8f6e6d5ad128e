"""A job of two ranks that do what a test wants, and the process that launches it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import os, signal, sys, time
from pathlib import Path

RANK = int(os.environ["RANK"])
folder = Path(sys.argv[2])


def environment():
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"]
    print("child", *[os.environ[name] for name in names], os.environ["MASTER_PORT"].isdigit(), sys.argv[3:])
    print("on stderr", RANK, file=sys.stderr)


def rank_1_raises():
    if RANK == 1:
        raise RuntimeError("one has had enough")
    time.sleep(60)


def all_mistaken():
    print("paced: error: train.jsonl:3: no answer", file=sys.stderr)
    time.sleep(0.3 * (1 - RANK))  # rank 1 ends first
    sys.exit(2)


def rank_1_mistaken():
    if RANK == 1:
        print("a line before\\npaced: error: no such folder on rank 1\\na library's last", file=sys.stderr)
        sys.exit(2)
    time.sleep(60)


def rank_1_is_killed():
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def ends_cleanly():
    came = []
    signal.signal(signal.SIGINT, lambda *args: came.append("SIGINT"))
    (folder / f"ready-{RANK}").write_text(str(os.getpid()))
    while not came:
        time.sleep(0.02)
    time.sleep(0.5)  # a second one would come now
    (folder / f"came-{RANK}").write_text(" ".join(came))
    sys.exit(130)


def stops_when_asked():
    came = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: came.append(signal.Signals(number).name))
    (folder / f"ready-{RANK}").write_text(str(os.getpid()))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR1])
    while not came:
        time.sleep(0.02)
    time.sleep(0.5)  # a second one would come now
    (folder / f"came-{RANK}").write_text(" ".join(came))
    sys.exit(75)


def rank_1_hangs_after_it():
    if RANK == 0:
        stops_when_asked()
    ignores_it()


def rank_1_fails_after_it():
    if RANK == 0:
        ignores_it()
    (folder / f"ready-{RANK}").write_text(str(os.getpid()))
    signal.sigwait([signal.SIGTERM])
    sys.exit(3)


def ignores_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / f"ready-{RANK}").write_text(str(os.getpid()))
    time.sleep(60)


def terminal():
    print("terminal", sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.isatty())


def reduce():
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    x = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(x)
    print("sum", x.item())
    dist.barrier()
    dist.destroy_process_group()


globals()[sys.argv[1]]()
"""


def start_parent(
    what: str, folder: Path, stop_grace_s: float = 60.0, output: int | None = None
) -> subprocess.Popen[bytes]:
    """A process, in a group of its own as a shell would start it, whose two ranks do `what`."""
    script = (
        "import sys; from pathlib import Path; from paced_megatron.runtime import launch as l\n"
        f"l.STOP_GRACE_S, l.FAILURE_GRACE_S = {stop_grace_s}, 0.5\n"
        f"folder = Path({str(folder)!r})\n"
        f"sys.exit(l.launch([{what!r}, str(folder)], 2, module='launched_child', log_dir=folder))"
    )
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def child_pids(folder: Path) -> list[int]:
    files = [folder / f"ready-{rank}" for rank in range(2)]
    return [int(file.read_text() or 0) if file.exists() else 0 for file in files]


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie, which nobody may have collected yet, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
