"""The whole loop as one job (slurm/run.sbatch) and as a chain of jobs, by submit.sh as a user calls it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from loop.recipes import QUICKSTART, write_recipe
from slurm_cluster import ROOT, Cluster

pytestmark = pytest.mark.slurm

# A link costs a start of Python: the chain does without measurements, which change nothing in the student.
# tests/cluster/test_chain.py has the links of other recipes.
LINKS = ("rollout-1", "weigh-1", "respond-1", "train-1", "export-1")
UNMEASURED = ("problems.test=null", "evaluation.every=0")


def submit(
    slurm: Cluster, folder: Path, *arguments: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """submit.sh; without `paced plan`, which tests/slurm/test_submit.py has."""
    return slurm.run(
        ROOT / "slurm" / "submit.sh", "--no-plan", *arguments, cwd=folder, check=check, timeout=300
    )


def jobs(run: Path) -> list[tuple[str, str]]:
    """(id, name) of what was submitted for the run."""
    lines = (run / "logs" / "slurm-jobs.tsv").read_text().splitlines()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


@pytest.mark.timeout(600)  # seven starts of Python, one after another
def test_the_whole_loop_in_one_job_and_as_a_chain_gives_the_same_student(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    recipe = write_recipe(tmp_path)
    looped, chained = tmp_path / "looped", tmp_path / "chained"
    assert "run on 1 x 1 ranks" in submit(slurm, tmp_path, recipe, f"run_dir={looped}").stdout
    said = submit(slurm, tmp_path, "--chain", recipe, f"run_dir={chained}", *UNMEASURED).stdout
    ((loop, _),) = jobs(looped)
    links = jobs(chained)
    assert tuple(name for _, name in links) == LINKS
    assert all(f"job {number}: " in said for number, _ in links)
    status = submit(slurm, tmp_path, "--status", chained).stdout
    assert f"waits for job {links[-2][0]} ({links[-2][1]})" in status and "0 of 5 done" in status

    assert slurm.wait(loop, timeout=300) == {"COMPLETED"}, (looped / "logs" / f"run-{loop}.log").read_text()
    assert (looped / "report.html").exists()
    ended = slurm.wait(links[-1][0], timeout=400)
    status = submit(slurm, tmp_path, "--status", chained, check=False).stdout
    assert ended == {"COMPLETED"}, status
    for file in ("hf/model.safetensors", "attempts.jsonl", "responses.jsonl", "pass_rates.jsonl"):
        looped_file, chained_file = looped / "stage-1" / file, chained / "stage-1" / file
        assert looped_file.read_bytes() == chained_file.read_bytes(), file
    assert "5 of 5 done" in status and status.count("done in") == 5
    assert not slurm.ours_left()


def test_when_a_link_fails_those_after_it_do_not_start_and_status_says_so(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(QUICKSTART / "student", student)
    (student / "model.safetensors").unlink()
    recipe = write_recipe(tmp_path, student={"path": str(student)})
    submit(slurm, tmp_path, "--chain", recipe, *UNMEASURED)
    run = tmp_path / "run"
    (first, _), *others = jobs(run)
    for number, _ in others:
        assert slurm.wait(number) == {"CANCELLED"}
    assert slurm.wait(first) == {"FAILED"} and not slurm.run("squeue", "-h").stdout
    done = submit(slurm, tmp_path, "--status", run, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith(f"{first:>8}  rollout-1") and "failed after" in lines[0]
    assert "exit code 2" in lines[0]
    for (number, name), line, before in zip(others, lines[1:5], jobs(run)[:-1], strict=True):
        assert line.split()[:2] == [number, name]
        assert f"does not start: job {before[0]} ({before[1]}) failed or was not started" in line
    assert lines[5] == "0 of 5 done"
    assert lines[6] == (
        f"job {first} (rollout-1) is the one that failed; its log: {run}/logs/rollout-1-{first}.log"
    )
    assert "model.safetensors" in (run / "logs" / f"rollout-1-{first}.log").read_text()
    assert not list((run / "logs").glob("*weigh*"))


def test_dry_runs_show_which_script_each_link_has_and_both_components_of_a_heterogeneous_job(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    launch = {"python": "/opt/sglang/bin/python", "args": "--tp-size 2"}
    rollout = {"engine": "sglang", "launch": launch, "attempts": 4, "max_new_tokens": 16}
    recipe = write_recipe(tmp_path, rollout=rollout)
    with cluster_env.open("a") as file:
        file.write("SERVER_NODES=2\n")
    chain = submit(slurm, tmp_path, "--dry-run", "--chain", recipe).stdout.splitlines()
    assert [line.split("/slurm/")[1].split()[0] for line in chain] == [
        "rollout.sbatch",
        "train.sbatch",  # weigh needs no server
        "rollout.sbatch",
        "rollout.sbatch",
        "run.sbatch",  # this recipe evaluates on the way
        "train.sbatch",
        "rollout.sbatch",
    ]
    assert "--dependency" not in chain[0] and "--nodes=1" in chain[0] and "--gpus-per-node=8" in chain[0]
    assert "--dependency=afterok:ID-OF-evaluate-before-1 --kill-on-invalid-dep=yes" in chain[4]
    assert "--nodes=3" in chain[4] and "VERB=train STAGE=1" in chain[4]
    # Where training samples nothing its job has no servers, and no nodes for them.
    chain = submit(slurm, tmp_path, "--dry-run", "--chain", recipe, "evaluation.every=0").stdout.splitlines()
    assert "/slurm/train.sbatch" in chain[4] and "--nodes=1" in chain[4] and "VERB=train" in chain[4]
    (het,) = submit(slurm, tmp_path, "--dry-run", "--het", recipe).stdout.splitlines()
    ranks, servers = het.split(" : ")
    assert "--nodes=1" in ranks and "--nodes=2" in servers and "het.sbatch" in servers
    elsewhere = ("rollout.launch={}", "rollout.urls=[http://gpu7:30000]")
    refused = submit(slurm, tmp_path, "--het", recipe, *elsewhere, check=False)
    assert refused.returncode == 2 and refused.stderr.startswith(
        "paced: --het: for run the recipe starts no SGLang"
    )
    assert not slurm.run("squeue", "-h").stdout
