"""What takes minutes: Slurm's own clock, and a node that is found dead. PACED_FULL_SLURM=1 asks for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slurm_cluster import Cluster
from slurm_training import log_of, saved_in, steps_in, submit, wait_for_start, wait_for_steps

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PACED_FULL_SLURM") != "1", reason="takes minutes: PACED_FULL_SLURM=1"),
]
NO_END = 100_000  # steps


def test_before_the_time_limit_slurm_sends_usr1_and_the_job_saves_and_starts_again(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    job = submit(slurm, tmp_path, "--time=2", "--signal=B:USR1@30", steps=NO_END)
    wait_for_start(slurm, tmp_path, 1, 240)
    stopped_at = saved_in(tmp_path)
    assert stopped_at == steps_in(tmp_path), log_of(tmp_path)
    assert f"paced: stopped by SIGUSR1: stage 1: step {stopped_at} of {NO_END} is saved" in log_of(tmp_path)
    assert stopped_at is not None
    wait_for_steps(slurm, tmp_path, job, stopped_at + 1, NO_END)


def test_at_the_time_limit_itself_the_ranks_save_within_kill_wait_and_the_job_is_timeout(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    job = submit(slurm, tmp_path, "--time=1", "--signal=B:CONT@1", steps=NO_END)
    assert slurm.wait(job, 240) == {"TIMEOUT"}
    assert not slurm.ours_left()
    assert "paced: stopped by SIGTERM: stage 1: step" in log_of(tmp_path)
    assert saved_in(tmp_path) == steps_in(tmp_path) > 0
    assert slurm.states(job) == {"TIMEOUT"}


def test_a_node_whose_slurmd_is_killed_costs_no_step_and_the_job_starts_on_others(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    job = submit(slurm, tmp_path, steps=NO_END)
    wait_for_steps(slurm, tmp_path, job, 3, NO_END)
    slurm.node(slurm.nodes[1], "kill")
    wait_for_start(slurm, tmp_path, 1, 180)
    saved = saved_in(tmp_path)
    assert saved is not None and f"step {saved} of {NO_END} is saved" in log_of(tmp_path)
    wait_for_steps(slurm, tmp_path, job, saved + 1, NO_END)
    hosts = slurm.field(job, "NodeList")
    assert hosts == f"{slurm.nodes[0]},{slurm.nodes[2]}" or slurm.nodes[1] not in hosts
