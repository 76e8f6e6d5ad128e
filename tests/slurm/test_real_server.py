"""The whole loop in one job with real SGLang servers as steps of it, on the CPU: minutes, so behind
PACED_FULL_SLURM=1 (`make long-slurm`). The student and the teacher are of other sizes: a server each."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import psutil
import pytest

from loop.recipes import ATTEMPTS, QUICKSTART, TRAIN_PROBLEMS, keys, write_recipe
from sglang_server import cpu_launch, interpreter
from slurm_cluster import ENDED, ROOT, Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("PACED_FULL_SLURM") != "1", reason="PACED_FULL_SLURM=1: minutes"),
]


def test_the_whole_loop_with_real_servers_one_of_which_is_killed(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    launch = cpu_launch(interpreter(os.environ))
    keys_of_launch = {"python": str(launch.python), "args": shlex.join(launch.args), "env": dict(launch.env)}
    rollout = {"engine": "sglang", "launch": keys_of_launch, "attempts": ATTEMPTS, "max_new_tokens": 16}
    recipe = write_recipe(tmp_path, rollout=rollout)
    with cluster_env.open("a") as file:
        file.write("GPUS_PER_NODE=0\nSERVER_NODES=1\nSERVERS_PER_NODE=2\n")
    number = slurm.sbatch(
        "--nodes=2",
        "--ntasks-per-node=1",
        "--time=30",
        "--output=job.log",
        ROOT / "slurm" / "run.sbatch",
        recipe,
        cwd=tmp_path,
    )
    log, attempts = tmp_path / "job.log", tmp_path / "run" / "stage-1" / "attempts.jsonl"
    slurm.wait_for(lambda: attempts.exists() or slurm.states(number) & ENDED, "the first attempts", 900)
    assert attempts.exists(), log.read_text()
    student = str(QUICKSTART / "student")
    servers = [
        psutil.Process(int(line.split()[0]))
        for line in slurm.ours()
        if "sglang.launch_server" in line.split() and student in line.split() and "serve.sh" not in line
    ]
    min(servers, key=lambda process: process.create_time()).kill()
    assert slurm.wait(number, timeout=1200) == {"COMPLETED"}, log.read_text()
    said = log.read_text()
    assert "2 servers answer" in said and "has ended with code 137 (start 1 of 5)" in said
    assert Counter(Counter(keys(attempts)).values()) == {1: TRAIN_PROBLEMS * ATTEMPTS}
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert {row["step"] for row in rows} == {0, 3, 6}
    assert (tmp_path / "run" / "stage-1" / "hf" / "model.safetensors").exists()
    for kind in ("student", "teacher"):
        assert kind in said
    assert not slurm.ours_left(30)
