"""A job that the cluster takes away goes on where it was and ends with the same weights; one that is ended
leaves nothing behind and says why."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loop.recipes import records, start_paced, without_times
from slurm_cluster import Cluster
from slurm_training import (
    TRAIN_ITERS,
    log_of,
    python_of_rank,
    recipe_of_two,
    run_of,
    saved_in,
    steps_in,
    submit,
    wait_for_start,
    wait_for_steps,
)

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

Started = tuple[Path, subprocess.Popen[str]]  # a recipe's folder, and what works on it


@pytest.fixture(scope="module")
def never_interrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The same run, started by `paced run` without Slurm; it goes on beside the first test's job."""
    folder = tmp_path_factory.mktemp("whole")
    process = start_paced("run", recipe_of_two(folder))
    try:
        yield folder, process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def assert_same_run(folder: Path, other: Path) -> None:
    """Attempts, steps and the weights' file, byte for byte."""
    one, two = run_of(folder) / "stage-1", run_of(other) / "stage-1"
    for name in ("attempts.jsonl", "pass_rates.jsonl", "responses.jsonl"):
        assert records(one / name) == records(two / name), name
    steps, truth = records(one / "metrics.jsonl"), records(two / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, TRAIN_ITERS + 1))
    assert list(map(without_times, steps)) == list(map(without_times, truth))
    assert (one / "hf/model.safetensors").read_bytes() == (two / "hf/model.safetensors").read_bytes()


def test_stopped_by_usr1_then_requeued_then_without_a_node_it_ends_with_the_weights_of_one_never_interrupted(
    slurm: Cluster, tmp_path: Path, cluster_env: Path, never_interrupted: tuple[Path, subprocess.Popen[str]]
) -> None:
    job = submit(slurm, tmp_path)
    wait_for_steps(slurm, tmp_path, job, 5)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@N does, at once
    wait_for_start(slurm, tmp_path, 1)
    stopped_at = saved_in(tmp_path)
    assert stopped_at == steps_in(tmp_path) and 5 <= stopped_at < 40  # saved there, and by no interval
    assert re.search(rf"paced: stopped by SIGUSR1: stage 1: step {stopped_at} of", log_of(tmp_path))

    wait_for_steps(slurm, tmp_path, job, 35)
    slurm.run("scontrol", "requeue", job)
    wait_for_start(slurm, tmp_path, 2)

    wait_for_steps(slurm, tmp_path, job, 65)
    slurm.run("scontrol", "update", f"nodename={slurm.nodes[1]}", "state=down", "reason=test")
    wait_for_start(slurm, tmp_path, 3)

    assert slurm.wait(job) == {"COMPLETED"}, log_of(tmp_path)
    assert (slurm.field(job, "ExitCode"), slurm.field(job, "Restarts")) == ("0:0", "3")
    assert not slurm.ours_left()
    whole, process = never_interrupted
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert_same_run(tmp_path, whole)


def test_scancel_saves_and_leaves_nothing_running(slurm: Cluster, tmp_path: Path, cluster_env: Path) -> None:
    job = submit(slurm, tmp_path)
    wait_for_steps(slurm, tmp_path, job, 3)
    slurm.run("scancel", job)
    assert slurm.wait(job) == {"CANCELLED"}
    assert not slurm.ours_left()
    assert slurm.states(job) == {"CANCELLED"}  # what ended with 75 was not queued again
    assert saved_in(tmp_path) == steps_in(tmp_path) < TRAIN_ITERS, log_of(tmp_path)


def test_a_rank_that_is_killed_ends_the_job_with_its_code_and_its_name_and_leaves_nothing(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    job = submit(slurm, tmp_path)
    wait_for_steps(slurm, tmp_path, job, 3)
    python_of_rank(slurm, 1).send_signal(signal.SIGKILL)
    assert slurm.wait(job) == {"FAILED"}
    assert slurm.field(job, "ExitCode") == "137:0", log_of(tmp_path)
    last = log_of(tmp_path).splitlines()[-1]
    assert last.endswith(f"rank 1 on {slurm.nodes[1]} was killed by SIGKILL (out of memory?)"), log_of(
        tmp_path
    )
    assert not slurm.ours_left()


STOPS_EACH_TIME = """\
#!/usr/bin/env bash
#SBATCH --open-mode=append --requeue --output=job.log
source "${PACED_REPO:-$SLURM_SUBMIT_DIR}/slurm/common.sh"
in_environment
hear_signals
step=${STEP:-${SLURM_RESTART_COUNT:-0}}
saved="stage 1: step $step of 9 is saved"
run_step ranks -- bash -c "$BEFORE
    echo 'paced: stopped by SIGTERM: $saved; the same command ...'; exit 75"
finish $?
"""


@pytest.fixture
def stopping(slurm: Cluster, tmp_path: Path, cluster_env: Path) -> Path:
    """A job whose step says that it has stopped, every time: the tests below are of the batch script alone,
    and real ranks would take half a minute for each start."""
    (tmp_path / "job.sbatch").write_text(STOPS_EACH_TIME)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "options", "step", "restarts", "why"),
    [
        ("", [], "7", "1", "no further than the one before it (stage 1: step 7 of 9 is saved)"),
        ("MAX_REQUEUES=1", [], "", "1", "it was queued again 1 times (MAX_REQUEUES in "),
        ("", ["--no-requeue"], "", "0", "Slurm refuses to (Requested operation is presently disabled"),
    ],
    ids=["no step since the last start", "too often", "Slurm refuses"],
)
def test_a_job_that_is_not_queued_again_says_why_and_that_all_is_saved(
    slurm: Cluster,
    stopping: Path,
    cluster_env: Path,
    settings: str,
    options: list[str],
    step: str,
    restarts: str,
    why: str,
) -> None:
    cluster_env.write_text(f"{cluster_env.read_text()}{settings}\n")
    job = slurm.sbatch(*options, "job.sbatch", cwd=stopping, env={"STEP": step, "BEFORE": ""})
    assert slurm.wait(job) == {"FAILED"}
    assert (slurm.field(job, "ExitCode"), slurm.field(job, "Restarts")) == ("75:0", restarts)
    last = log_of(stopping).splitlines()[-1]
    assert last.startswith("paced: all is saved, and the job is not queued again: ") and why in last
    assert last.endswith("submitted once more it goes on from here")
    assert not slurm.ours_left()


def test_a_cancelled_job_whose_ranks_stopped_with_all_saved_is_not_queued_again(
    slurm: Cluster, stopping: Path
) -> None:
    """As the one with real ranks above, with ranks that need no time to save."""
    # Heard wherever it comes after "begun": `sleep 60 & wait` would miss one that comes before `wait`.
    until_term = "trap 'told=1' TERM; echo begun; until [ -n \"$told\" ]; do sleep 0.1; done"
    job = slurm.sbatch("job.sbatch", cwd=stopping, env={"STEP": "7", "BEFORE": until_term})
    slurm.wait_for(lambda: "begun" in log_of(stopping), "the step")
    slurm.run("scancel", job)
    assert slurm.wait(job) == {"CANCELLED"}
    assert not slurm.ours_left()
    log = log_of(stopping)
    assert "step ranks has stopped with everything saved" in log and "queued again" not in log
    assert (slurm.states(job), slurm.field(job, "Restarts")) == ({"CANCELLED"}, "0")
