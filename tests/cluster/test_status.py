"""How jobs stand, in words. What scontrol says is written here as Slurm 22.05 says it (tests/slurm asks a
real one), what sacct says as its manual has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paced_megatron.cluster import status
from paced_megatron.cluster.status import State, ask_slurm, main

CHAIN = (("7", "rollout-1"), ("8", "weigh-1"), ("9", "train-1"))


def write_jobs(run: Path, submitted: str = "now", chain: tuple[tuple[str, str], ...] = CHAIN) -> None:
    (run / "logs").mkdir(parents=True, exist_ok=True)
    before = ["-", *(number for number, _ in chain)]
    lines = [
        "\t".join((number, name, after, f"/logs/{name}.log", submitted))
        for (number, name), after in zip(chain, before, strict=False)
    ]
    with (run / "logs" / "slurm-jobs.tsv").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def said(
    run: Path, capsys: pytest.CaptureFixture[str], *states: State, names: tuple[str, ...] = ()
) -> tuple[int, list[str]]:
    """(exit code, lines) where Slurm says this of the jobs 7, 8, 9."""
    by_id = dict(zip(("7", "8", "9"), states, strict=False))
    code = main(names or [str(run)], ask=lambda number: by_id.get(number, State()))
    return code, capsys.readouterr().out.splitlines()


def test_a_chain_under_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jobs(tmp_path)
    code, lines = said(
        tmp_path,
        capsys,
        State("COMPLETED", "None", 0, "00:01:00"),
        State("RUNNING", "None", 0, "00:00:09", "n[1-2]"),
        State("PENDING", "Dependency"),
    )
    assert code == 0
    assert [" ".join(line.split()) for line in lines] == [
        "7 rollout-1 done in 00:01:00",
        "8 weigh-1 runs since 00:00:09 on n[1-2]",
        "9 train-1 waits for job 8 (weigh-1)",
        "1 of 3 done",
    ]


def test_a_job_that_somebody_cancelled_is_not_said_to_have_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(tmp_path)
    not_begun = State("PENDING", "DependencyNeverSatisfied")
    code, lines = said(tmp_path, capsys, State("CANCELLED", "None", 0, "00:00:05"), not_begun, not_begun)
    assert code == 1
    assert lines[-2] == "job 7 (rollout-1) was cancelled; its log: /logs/rollout-1.log"


@pytest.mark.parametrize("last", [State("CANCELLED"), State("PENDING", "DependencyNeverSatisfied")])
def test_a_chain_that_broke_names_the_job_that_failed_and_those_that_do_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: State
) -> None:
    write_jobs(tmp_path)
    broken = State("FAILED", "NonZeroExitCode", 3, "00:00:05")
    code, lines = said(tmp_path, capsys, broken, last, last)
    assert code == 1
    assert [" ".join(line.split()) for line in lines] == [
        "7 rollout-1 failed after 00:00:05 with exit code 3",
        "8 weigh-1 does not start: job 7 (rollout-1) failed or was not started",
        "9 train-1 does not start: job 8 (weigh-1) failed or was not started",
        "0 of 3 done",
        "job 7 (rollout-1) is the one that failed; its log: /logs/rollout-1.log",
        "mend it and submit the same chain again: what is complete is not done a second time",
    ]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State("PENDING", "Resources"), "waits in the queue (Resources)"),
        (State("PENDING", "BeginTime", restarts=1), "was requeued and waits for its next start (BeginTime)"),
        (
            State("FAILED", "", 75, "00:01:00"),
            "failed after 00:01:00 with exit code 75, with everything saved",
        ),
        (State("FAILED", "", 137, "00:01:00"), "failed after 00:01:00 with exit code 137 (SIGKILL)"),
        (State("FAILED", "", 255, "00:01:00"), "failed after 00:01:00 with exit code 255"),
        (State("TIMEOUT", "", 0, "04:00:00"), "hit its time limit after 04:00:00"),
        (State("NODE_FAIL", "", 0, "00:00:30"), "lost a node after 00:00:30"),
        (State("CANCELLED", "", 0, "00:00:30"), "was cancelled after 00:00:30"),
        (State("CANCELLED"), "was cancelled before it started"),
        (State(), "is no longer known to Slurm"),
    ],
)
def test_each_end_has_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: State, words: str
) -> None:
    code, lines = said(tmp_path, capsys, state, names=("7",))
    assert lines[0].split(maxsplit=1) == ["7", words]
    assert code == (1 if state.failed else 0)


def test_only_the_last_submission_of_a_run_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(tmp_path, "yesterday", (("3", "rollout-1"), ("4", "weigh-1")))
    write_jobs(tmp_path)
    _, lines = said(tmp_path, capsys)
    assert [line.split()[0] for line in lines[:3]] == ["7", "8", "9"]
    assert lines[3] == "0 of 3 done, 3 unknown (see their logs)"


def test_a_folder_that_nobody_submitted_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"paced: {tmp_path}/logs/slurm-jobs.tsv: no such file")


SHOWN = (
    "JobId=7 JobName=train UserId=root(0) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) "
    "Requeue=1 Restarts=2 BatchFlag=1 ExitCode=0:9 RunTime=00:00:04 NodeList=n[1-2] TRES=cpu=4,node=2"
)


def test_slurm_is_asked_by_scontrol_and_sacct_where_that_has_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"scontrol": SHOWN, "sacct": "FAILED by 0|3:0|00:01:00|n1"}
    monkeypatch.setattr(status, "_output", lambda *command: answers[command[0]])
    assert ask_slurm("7") == State("FAILED", "NonZeroExitCode", 137, "00:00:04", "n[1-2]", 2)
    answers["scontrol"] = (
        "JobId=8 JobState=CANCELLED Reason=Dependency ExitCode=0:0 RunTime=20786-16:30:54 StartTime=Unknown"
    )
    assert ask_slurm("8") == State("CANCELLED", "Dependency", ran="")
    answers["scontrol"] = ""
    assert ask_slurm("7") == State("FAILED", "", 3, "00:01:00", "n1")
    answers["sacct"] = "FAILED|0:9|00:01:00|n1"
    assert ask_slurm("7") == State("FAILED", "", 137, "00:01:00", "n1")
    answers["sacct"] = ""
    assert ask_slurm("7") == State()
