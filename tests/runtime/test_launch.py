"""Starting, watching and ending a job's processes: runtime/launch.py, with a small module as the child."""

from __future__ import annotations

import os
import pty
import socket
import time
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.runtime import launch as launch_module
from paced_megatron.runtime.launch import free_port, launch
from paced_megatron.runtime.launched import already_launched, slurm_task
from runtime.launched import start_parent


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
