"""What every script shares (slurm/common.sh): steps, their logs, their exit codes, and where ranks meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slurm_cluster import Cluster

pytestmark = pytest.mark.slurm

# Each rank says who it is; FAILING ("RANK:CODE") fails while the others would go on for a minute.
TASK = """
import os, sys, time
rank = os.environ["SLURM_PROCID"]
print("rank", rank, "of", os.environ["SLURM_STEP_NUM_TASKS"], "on", os.environ["SLURMD_NODENAME"], flush=True)
print("RANK", os.environ.get("RANK"), flush=True)
failing, _, code = os.environ.get("FAILING", "").partition(":")
if failing == rank:
    print("the cause", file=sys.stderr)
    sys.exit(int(code))
if failing:
    time.sleep(60)
"""
SCRIPT = """\
#!/usr/bin/env bash
source "${PACED_REPO:-$SLURM_SUBMIT_DIR}/slurm/common.sh"
in_environment
rendezvous "$SLURM_JOB_NODELIST"
echo "ranks meet at $MASTER_ADDR:$MASTER_PORT"
run_step try -- "$PYTHON" task.py
exit
"""


@pytest.fixture
def job(slurm: Cluster, tmp_path: Path, cluster_env: Path) -> Path:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "job.sbatch").write_text(SCRIPT)
    return tmp_path


def submit(slurm: Cluster, job: Path, **env: str) -> tuple[set[str], str, str]:
    """(states, exit code, log) of the job on two nodes of two tasks."""
    options = ["--nodes=2", "--ntasks-per-node=2", "--output=job.log"]
    number = slurm.sbatch(*options, "job.sbatch", cwd=job, env=env)
    return slurm.wait(number), slurm.field(number, "ExitCode"), (job / "job.log").read_text()


def test_ranks_of_a_step_have_logs_by_job_step_node_and_task_and_rank_0_is_in_the_jobs_log_too(
    slurm: Cluster, job: Path
) -> None:
    states, _, log = submit(slurm, job, RANK="9")  # of the job in which this is submitted
    assert states == {"COMPLETED"} and "RANK None" in log, log
    first, second = slurm.nodes[:2]
    assert re.search(rf"ranks meet at {first}:2\d{{4}}$", log, re.M)
    assert f"rank 0 of 4 on {first}" in log and "rank 1" not in log
    for rank, node in enumerate((first, first, second, second)):
        (text,) = [path.read_text() for path in (job / "logs").glob(f"*-try-{node}-{rank}.log")]
        assert f"rank {rank} of 4 on {node}" in text
    assert not list((job / "logs").glob("*.code"))


@pytest.mark.parametrize("rank", [0, 3])
def test_the_code_of_the_rank_that_failed_is_the_jobs_and_its_cause_the_logs_last_line(
    slurm: Cluster, job: Path, rank: int
) -> None:
    states, code, log = submit(slurm, job, FAILING=f"{rank}:7")
    assert (states, code) == ({"FAILED"}, "7:0"), log
    assert f"rank {rank} on {slurm.nodes[rank // 2]} ended first, with exit code 7" in log
    assert log.splitlines()[-1] == "the cause"
    assert not slurm.ours_left()


def test_a_script_without_the_repository_or_the_environment_ends_with_one_line(
    slurm: Cluster, job: Path, cluster_env: Path
) -> None:
    cluster_env.write_text(cluster_env.read_text() + 'VENV="/nowhere"\n')
    states, code, log = submit(slurm, job)
    assert (states, code) == ({"FAILED"}, "2:0")
    assert log == (
        f"paced: /nowhere/bin/python: no such program; VENV in {cluster_env} names the environment with the "
        "package\n"
    )
