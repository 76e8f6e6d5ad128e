"""slurm/train.sbatch, evaluate.sbatch and convert.sbatch do under Slurm what `paced` does elsewhere: the
files are compared byte by byte with those of the same layout under torchrun, on one host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loop.recipes import QUICKSTART, adopt, write_recipe
from slurm_cluster import ROOT, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.parallel]

LAYOUT = ("parallel.tensor_model_parallel_size=2", "parallel.data_parallel_size=2")
WEIGHTS = ("stage-1/hf/*.safetensors", "stage-1/checkpoints/iter_0000006/*.distcp")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), evaluation={"every": 0, "attempts": 2})


@pytest.fixture(scope="module")
def under_torchrun(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in four ranks that torchrun has started."""
    run = tmp_path_factory.mktemp("torchrun") / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    done = subprocess.run(
        [*torchrun, "-m", "paced_megatron.cli", "run", recipe, *LAYOUT, f"run_dir={run}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def weights(run: Path) -> dict[str, bytes]:
    """The student's files, exported and in the last checkpoint, the optimizer's moments with it."""
    found = {
        str(path.relative_to(run)): path.read_bytes() for pattern in WEIGHTS for path in run.glob(pattern)
    }
    assert len(found) == 3  # a file of each tensor-parallel rank's, and the exported student
    return found


def test_training_over_two_nodes_gives_the_weights_of_the_same_layout_under_torchrun(
    slurm: Cluster, recipe: Path, under_torchrun: Path, cluster_env: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shape = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", f"--output={tmp_path}/job.log"]
    job = slurm.sbatch(
        *shape,
        "slurm/train.sbatch",
        recipe,
        *LAYOUT,
        f"run_dir={run}",
        cwd=ROOT,
        env={"VERB": "run", "PACED_LOG_DIR": str(run / "logs")},
    )
    states = slurm.wait(job, 240)
    log = (tmp_path / "job.log").read_text()
    assert states == {"COMPLETED"} and slurm.field(job, "ExitCode") == "0:0", log
    assert "4 ranks on" in log and "start 0" in log
    assert weights(run) == weights(under_torchrun)
    nodes = sorted(path.name.split("-")[2] for path in (run / "logs").glob(f"{job}-run-*.log"))
    assert nodes == [name for name in slurm.nodes[:2] for _ in range(2)]


def test_submit_queues_a_recipe_whose_ranks_torchrun_starts_on_each_node(
    slurm: Cluster, recipe: Path, under_torchrun: Path, cluster_env: Path, tmp_path: Path
) -> None:
    cluster_env.write_text(cluster_env.read_text() + "LAUNCHER=torchrun\n")
    run = tmp_path / "run"
    submitted = slurm.run("slurm/submit.sh", "--no-plan", recipe, *LAYOUT, f"run_dir={run}", cwd=ROOT).stdout
    first_line = next(line for line in submitted.splitlines() if line.startswith("job "))
    job = first_line.split()[1].rstrip(":")
    assert first_line == f"job {job}: run on 2 x 2 ranks"
    states = slurm.wait(job, 240)
    log = run / "logs" / f"run-{job}.log"
    assert states == {"COMPLETED"}, log.read_text()
    assert str(log) in submitted and job == (run / "logs" / "slurm-jobs.tsv").read_text().split()[0]
    assert weights(run) == weights(under_torchrun)


def test_evaluate_and_convert_as_jobs_write_what_the_verbs_write(
    slurm: Cluster, recipe: Path, under_torchrun: Path, cluster_env: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(under_torchrun, run, symlinks=True)
    adopt(recipe, *LAYOUT, f"run_dir={run}")
    (run / "evaluation.json").unlink()
    shutil.rmtree(run / "stage-1" / "evaluation")
    two_by_two, common = ["--nodes=2", "--ntasks-per-node=2"], {"PACED_LOG_DIR": str(tmp_path / "logs")}
    log = f"--output={tmp_path}/%x.log"
    evaluation = slurm.sbatch(
        *two_by_two, log, "slurm/evaluate.sbatch", recipe, *LAYOUT, f"run_dir={run}", cwd=ROOT, env=common
    )
    conversion = slurm.sbatch(
        log,
        "slurm/convert.sbatch",
        "to-megatron",
        QUICKSTART / "student",
        tmp_path / "megatron",
        cwd=ROOT,
        env=common,
    )
    for job, name in ((evaluation, "evaluate"), (conversion, "convert")):
        assert slurm.wait(job, 240) == {"COMPLETED"}, (tmp_path / f"{name}.log").read_text()
    made, before = (
        json.loads((folder / "evaluation.json").read_text())["rows"] for folder in (run, under_torchrun)
    )
    assert made and made == [row for row in before if row["step"] == 6]
    assert (tmp_path / "megatron" / "latest_checkpointed_iteration.txt").exists()


def test_a_mistake_in_the_recipe_is_the_last_line_of_the_jobs_log_and_the_jobs_code_is_2(
    slurm: Cluster, recipe: Path, cluster_env: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    document = yaml.safe_load(recipe.read_text())
    broken.write_text(yaml.safe_dump(document | {"trainign": {}}))
    options = ["--ntasks-per-node=2", f"--output={tmp_path}/job.log"]
    job = slurm.sbatch(
        *options, "slurm/train.sbatch", broken, cwd=ROOT, env={"PACED_LOG_DIR": str(tmp_path / "logs")}
    )
    assert slurm.wait(job) == {"FAILED"} and slurm.field(job, "ExitCode") == "2:0"
    last = (tmp_path / "job.log").read_text().splitlines()[-1]
    assert last.startswith("paced: ") and "trainign" in last and "did you mean training" in last
