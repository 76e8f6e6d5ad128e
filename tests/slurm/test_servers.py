"""SGLang servers as steps of a job (slurm/servers.sh): started, lost, started again, and gone at the end.

They are stand-ins, which start in a tenth of a second where a real one takes half a minute and 2 GB. `paced
rollout`, its engine and Slurm are the real ones. A real server as a step: test_real_server.py, in `make
test-long`.
"""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loop.recipes import ATTEMPTS, TRAIN_PROBLEMS, keys, write_recipe
from slurm.with_stand_in import environment, server_package
from slurm_cluster import ROOT, Cluster

pytestmark = pytest.mark.slurm


@dataclass
class Runner:
    """Submits a recipe with stand-ins for servers, in a folder of its own."""

    slurm: Cluster
    folder: Path
    cluster_env: Path
    number: str = ""

    def submit(
        self,
        *options: str,
        script: str = "run.sbatch",
        ranks: int = 1,
        delay_s: float = 0,
        **settings: object,
    ) -> None:
        """`settings`: of cluster.env."""
        with self.cluster_env.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
        launch = {
            "python": sys.executable,
            "args": f"--stand-in-delay-s {delay_s}",
            "env": {"PYTHONPATH": str(server_package(self.folder / "package"))},
        }
        rollout = {"engine": "sglang", "launch": launch, "attempts": ATTEMPTS, "max_new_tokens": 16}
        recipe = write_recipe(self.folder, rollout=rollout, parallel={"data_parallel_size": ranks})
        self.number = self.slurm.sbatch(
            *options,
            "--output=job.log",
            ROOT / "slurm" / script,
            recipe,
            env={"VERB": "rollout", "STAGE": "1"},
            cwd=self.folder,
        )

    @property
    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text() if path.exists() else ""

    def server_log(self, node: str) -> str:
        (path,) = (self.folder / "logs").glob(f"*-server-*-{node}-0.log")
        return path.read_text()

    def attempts(self) -> Path:
        return self.folder / "run" / "stage-1" / "attempts.jsonl"

    def until_attempts_arrive(self) -> None:
        self.slurm.wait_for(
            lambda: self.attempts().exists() and self.attempts().read_text().count("\n") >= 8,
            f"attempts\n{self.log}",
        )

    def process(self, *words: str) -> psutil.Process:
        """The one process of the cluster's jobs with these words in its command line."""
        found = [line for line in self.slurm.ours() if all(word in line.split() for word in words)]
        (line,) = [line for line in found if "slurm/serve.sh" not in line and "slurm/task.sh" not in line]
        return psutil.Process(int(line.split()[0]))

    def ended(self) -> tuple[set[str], str]:
        """(states, exit code); nothing of the job is left."""
        states = self.slurm.wait(self.number)
        assert not self.slurm.ours_left(), self.log
        assert not list((self.folder / "logs").glob(".*key*"))
        return states, self.slurm.field(self.number, "ExitCode")


@pytest.fixture
def runner(slurm: Cluster, tmp_path: Path, cluster_env: Path) -> Runner:
    venv = environment(tmp_path / "venv")
    with cluster_env.open("a") as file:
        file.write(f'VENV="{venv}"\nGPUS_PER_NODE=0\nSERVER_NODES=1\n')
    return Runner(slurm, tmp_path, cluster_env)


def test_a_server_that_dies_is_started_again_and_the_ranks_go_on(runner: Runner) -> None:
    runner.submit("--nodes=2", "--ntasks-per-node=1", delay_s=0.3)
    runner.until_attempts_arrive()
    ranks, serving = runner.slurm.nodes[:2]
    server = runner.process("sglang.launch_server", serving)
    server.kill()
    states, code = runner.ended()
    assert (states, code) == ({"COMPLETED"}, "0:0"), runner.log
    assert re.search(rf"server-0 on {serving}:\d+ has ended with code 137 \(start 1 of 5\)", runner.log)
    assert "answers again" in runner.log
    # Each attempt once, whatever server process made it.
    assert Counter(keys(runner.attempts())).most_common(1)[0][1] == 1
    assert len(keys(runner.attempts())) == TRAIN_PROBLEMS * ATTEMPTS
    # The server was alone on its node, and its key is in no log.
    (log,) = (runner.folder / "logs").glob("*-rollout-*.log")
    assert f"-rollout-{ranks}-0" in log.name
    assert runner.server_log(serving).count("serves") == 2 and "the key <key>" in runner.server_log(serving)


def test_when_its_last_server_is_given_up_the_ranks_save_and_the_job_fails(runner: Runner) -> None:
    runner.submit("--nodes=2", "--ntasks-per-node=1", delay_s=0.5, SERVER_STARTS=1)
    runner.until_attempts_arrive()
    runner.process("sglang.launch_server").kill()
    assert runner.ended() == ({"FAILED"}, "1:0"), runner.log
    assert "paced: stopped by SIGUSR1" in runner.log
    # Once: a second request would end them unsaved (scancel fails where a node of the job has no such task).
    assert "step rollout has stopped with everything saved" in runner.log and "scancel" not in runner.log
    assert "no server of the student is left: each has died 1 times" in runner.log.splitlines()[-1]


def test_ranks_that_die_leave_no_server_behind_and_their_code_is_the_jobs(runner: Runner) -> None:
    runner.submit("--nodes=1", "--ntasks-per-node=1", delay_s=0.5, SERVER_NODES=0)
    runner.until_attempts_arrive()
    runner.process("paced_megatron.cli").kill()
    states, code = runner.ended()
    assert (states, code) == ({"FAILED"}, "137:0"), runner.log


def test_servers_that_do_not_start_or_have_no_port_end_the_job_before_the_ranks_start(
    runner: Runner,
) -> None:
    node = runner.slurm.nodes[0]
    with socket.create_server((socket.gethostbyname(node), 0)) as other:
        port = other.getsockname()[1]
        runner.submit("--nodes=1", "--ntasks-per-node=1", SERVER_NODES=0, SERVER_PORT=port)
        assert runner.ended() == ({"FAILED"}, "2:0"), runner.log
    assert f"paced: {node}:{port} is taken; another SERVER_PORT in {runner.cluster_env}" in runner.log
    (runner.folder / "job.log").unlink()
    with runner.cluster_env.open("a") as file:
        file.write("SERVER_PORT=\nSERVER_STARTS=2\nSERVER_PYTHON=/bin/false\n")
    runner.number = runner.slurm.sbatch(
        "--output=job.log",
        ROOT / "slurm" / "run.sbatch",
        runner.folder / "recipe.yaml",
        env={"VERB": "rollout"},
        cwd=runner.folder,
    )
    assert runner.ended() == ({"FAILED"}, "1:0"), runner.log
    assert runner.log.splitlines()[-1] == "paced: server-0 does not start"
    assert "(start 2 of 2)" in runner.log and not list((runner.folder / "logs").glob("*-rollout-*"))


def test_a_heterogeneous_job_has_its_ranks_in_one_component_and_its_servers_in_the_other(
    runner: Runner,
) -> None:
    runner.submit("--nodes=2", "--ntasks-per-node=1", ":", "--nodes=1", script="het.sbatch", ranks=2)
    assert runner.ended() == ({"COMPLETED"}, "0:0"), runner.log
    first, second, serving = runner.slurm.nodes[:3]
    for node in (first, second):
        assert list((runner.folder / "logs").glob(f"*-rollout-{node}-*.log"))
    assert "serves" in runner.server_log(serving)
    assert len(keys(runner.attempts())) == TRAIN_PROBLEMS * ATTEMPTS
