"""Starting, watching and ending a job's processes: runtime/launch.py, with a small module as the child."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.runtime import launch as launch_module
from paced_megatron.runtime.launch import free_port, launch
from paced_megatron.runtime.launched import already_launched, slurm_task

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


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module to launch, which the child processes find on their path."""
    (tmp_path / "launched_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return "launched_child"


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


@pytest.fixture
def parent_of(child: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a parent and waits until both its children have said that they are ready."""
    parents = []

    def start(what: str, stop_grace_s: float = 60.0) -> subprocess.Popen[bytes]:
        parents.append(start_parent(what, tmp_path, stop_grace_s))
        wait_until(lambda: all(child_pids(tmp_path)))
        return parents[-1]

    yield start
    for parent in parents:
        parent.kill()
        parent.wait()


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


def test_every_rank_finds_its_place_in_the_environment_and_only_rank_0_is_heard(
    child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(["environment", str(tmp_path), "seed=3"], 2, module=child, log_dir=tmp_path / "logs") == 0
    out, err = capfd.readouterr()
    assert out == "child 0 0 2 127.0.0.1 True ['seed=3']\n" and err == "on stderr 0\n"
    log = (tmp_path / "logs" / "rank-1.log").read_text()
    assert "child 1 1 2 127.0.0.1 True ['seed=3']" in log and "on stderr 1" in log


def test_without_a_folder_for_logs_none_is_left(
    child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert launch(["environment", str(tmp_path)], 2, module=child) == 0
    assert list((tmp_path / "tmp").iterdir()) == []
    assert capfd.readouterr().out.startswith("child 0")


def test_a_rank_that_raises_ends_the_job_in_seconds_and_its_log_s_end_is_shown(
    child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "FAILURE_GRACE_S", 0.5)
    (tmp_path / "rank-1.log").write_text("what an earlier run said\n")
    start = time.monotonic()
    assert launch(["rank_1_raises", str(tmp_path)], 2, module=child, log_dir=tmp_path) == 1
    assert time.monotonic() - start < 50
    err = capfd.readouterr().err
    assert err.startswith("rank 1 failed first; the end of ") and "rank-1.log" in err
    assert "RuntimeError: one has had enough" in err and "earlier run" not in err


def test_a_user_s_mistake_on_all_ranks_is_one_line_and_exit_code_2(
    child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(["all_mistaken", str(tmp_path)], 2, module=child, log_dir=tmp_path) == 2
    assert capfd.readouterr().err == "paced: error: train.jsonl:3: no answer\n"


def test_a_user_s_mistake_that_only_another_rank_knows_is_shown_as_its_one_line(
    child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "FAILURE_GRACE_S", 0.5)
    assert launch(["rank_1_mistaken", str(tmp_path)], 2, module=child, log_dir=tmp_path) == 2
    assert capfd.readouterr().err == "paced: error: no such folder on rank 1\n"


def test_a_killed_rank_is_named_with_its_signal(
    child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "FAILURE_GRACE_S", 0.5)
    assert launch(["rank_1_is_killed", str(tmp_path)], 2, module=child, log_dir=tmp_path) == 128 + 9
    assert "rank 1 was killed by SIGKILL" in capfd.readouterr().err


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ctrl_c_reaches_every_rank_once_and_lets_it_end_cleanly(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, signum: int, code: int
) -> None:
    parent = parent_of("ends_cleanly")
    os.killpg(parent.pid, signum)  # as a terminal does: to the whole group
    assert parent.wait(timeout=60) == code
    assert [(tmp_path / f"came-{rank}").read_text() for rank in range(2)] == ["SIGINT", "SIGINT"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_reaches_every_rank_once_as_it_is_and_75_is_handed_on(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, signum: signal.Signals
) -> None:
    parent = parent_of("stops_when_asked", stop_grace_s=0.1)  # before one has stopped there is no limit
    os.killpg(parent.pid, signum)
    assert parent.wait(timeout=60) == 75
    assert [(tmp_path / f"came-{rank}").read_text() for rank in range(2)] == [signum.name] * 2


def test_a_rank_that_only_starts_hears_the_stop_signal_when_it_listens(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Sent while the ranks' interpreters start; without the mask they would die of it (code 143)."""
    parent = start_parent("stops_when_asked", tmp_path, 60.0)
    try:
        wait_until(
            lambda: len(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()) == 2
        )
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=60) == 75
    finally:
        parent.kill()


def test_a_rank_asked_alone_stops_the_job_with_75_and_one_that_then_hangs_is_killed(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("rank_1_hangs_after_it", stop_grace_s=0.5)
    os.kill(child_pids(tmp_path)[0], signal.SIGTERM)
    assert parent.wait(timeout=60) == 75
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_a_rank_that_fails_while_it_should_stop_gives_the_job_its_code(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("rank_1_fails_after_it")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 3


def test_a_second_stop_signal_kills_but_for_the_same_request_heard_twice(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=60.0)
    parent.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    parent.send_signal(signal.SIGUSR1)
    time.sleep(1.3)
    assert parent.poll() is None and all(alive(pid) for pid in child_pids(tmp_path))
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 143
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_ranks_that_do_not_end_after_ctrl_c_are_killed_when_their_time_is_up(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=0.5)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=60) == 130
    assert not any(alive(pid) for pid in child_pids(tmp_path))


def test_a_second_ctrl_c_kills_at_once(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it", stop_grace_s=60.0)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert parent.poll() is None and all(alive(pid) for pid in child_pids(tmp_path))
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=60) == 130
    assert not any(alive(pid) for pid in child_pids(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for it")
def test_ranks_do_not_outlive_a_parent_that_is_killed(
    parent_of: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = parent_of("ignores_it")
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in child_pids(tmp_path)), seconds=30)


def test_rank_0_writes_to_the_terminal_itself(child: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    parent = start_parent("terminal", tmp_path, output=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        assert terminal.readline().decode().split() == ["terminal", "True", "True", "False"]
        assert parent.wait(timeout=60) == 0
    assert (tmp_path / "rank-1.log").read_text().split() == ["terminal", "False", "False", "False"]


@pytest.mark.parallel
def test_the_ranks_find_each_other(child: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["reduce", str(tmp_path)], 2, module=child, log_dir=tmp_path) == 0
    assert capfd.readouterr().out == "sum 3.0\n"
    assert "sum 3.0" in (tmp_path / "rank-1.log").read_text()


def test_a_launched_process_knows_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not already_launched()
    monkeypatch.setenv("RANK", "0")
    assert already_launched()


def test_a_free_port_can_be_listened_on_and_is_no_taken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", free_port()))
        mine.listen()
        taken = mine.getsockname()[1]
        draws = iter([taken, taken, taken + 1, taken + 2, taken + 3])
        draw = lambda self, low, high: next(draws)  # noqa: E731
        monkeypatch.setattr(launch_module.random.SystemRandom, "randrange", draw)
        assert free_port() > taken


TASK_OF_SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "20001",
}


def test_a_task_of_a_slurm_step_of_several_is_a_rank_of_a_job() -> None:
    assert slurm_task(TASK_OF_SLURM) == {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    all_gpus, its_own = ({"CUDA_VISIBLE_DEVICES": visible} for visible in ("0,1,2,3", "1"))
    assert slurm_task(TASK_OF_SLURM | all_gpus)["LOCAL_RANK"] == "1"
    assert slurm_task(TASK_OF_SLURM | its_own)["LOCAL_RANK"] == "0"


def test_a_jobs_script_a_step_of_one_task_and_a_rank_of_torchrun_are_no_such_tasks() -> None:
    in_the_script = {name: TASK_OF_SLURM[name] for name in TASK_OF_SLURM if name != "SLURM_STEP_NUM_TASKS"}
    for environment in (
        {},
        in_the_script,
        TASK_OF_SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        TASK_OF_SLURM | {"RANK": "0"},
    ):
        assert slurm_task(environment) == {}


def test_a_task_that_is_not_told_where_its_ranks_meet_says_so() -> None:
    with pytest.raises(UserError, match="task 5 of a Slurm step of 8, and MASTER_PORT is not set"):
        slurm_task(TASK_OF_SLURM | {"MASTER_PORT": ""})
