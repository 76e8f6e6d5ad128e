"""A training job of two nodes that is long enough to be interrupted, for the tests in tests/slurm."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from loop.recipes import write_recipe
from paced_megatron.training.checkpoints import latest_iteration
from slurm_cluster import ROOT, Cluster

TRAIN = ROOT / "slurm" / "train.sbatch"
TRAIN_ITERS = 100
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--output=job.log"]


def recipe_of_two(folder: Path, steps: int = TRAIN_ITERS) -> Path:
    """Two ranks (TP 2) and steps enough to be interrupted between them."""
    return write_recipe(
        folder,
        parallel={"tensor_model_parallel_size": 2},
        stages=[{"divergence": "forward_kl", "train_iters": steps}],
        training={
            "micro_batch_size": 2,
            "global_batch_size": 4,
            "lr": 1e-4,
            "weight_decay": 0.0,
            "save_interval": 40,
        },
        evaluation={"every": 0, "attempts": 2, "temperature": 1.0, "top_p": 1.0, "top_k": -1},
    )


def run_of(folder: Path) -> Path:
    return folder / "run"


def steps_in(folder: Path) -> int:
    metrics = run_of(folder) / "stage-1/metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def saved_in(folder: Path) -> int | None:
    return latest_iteration(run_of(folder) / "stage-1/checkpoints")


def log_of(folder: Path) -> str:
    log = folder / "job.log"
    return log.read_text() if log.exists() else ""


def submit(slurm: Cluster, folder: Path, *options: str, steps: int = TRAIN_ITERS) -> str:
    """`paced run` of `recipe_of_two` on two nodes; the job's number."""
    recipe = recipe_of_two(folder, steps)
    return slurm.sbatch(*TWO_NODES, *options, TRAIN, recipe, cwd=folder, env={"VERB": "run"})


def wait_for_steps(slurm: Cluster, folder: Path, job: str, steps: int, last: int = TRAIN_ITERS) -> None:
    """Until so many steps of `last` are taken, by a job that still runs."""

    def there() -> bool:
        assert slurm.states(job) <= {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}, log_of(folder)
        return steps_in(folder) >= steps

    slurm.wait_for(there, f"step {steps}", 180)
    assert steps_in(folder) < last, "it has ended before it could be interrupted"


def wait_for_start(slurm: Cluster, folder: Path, number: int, seconds: float = 90) -> None:
    """The first is 0."""
    slurm.wait_for(lambda: f"start {number}\n" in log_of(folder), f"start {number} in {folder}", seconds)


def python_of_rank(slurm: Cluster, rank: int) -> psutil.Process:
    """The interpreter of this cluster's job, as RANK or as Slurm's task."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            place = process.environ()
            if (
                place.get("SLURM_CONF") == slurm.environment["SLURM_CONF"]
                and place.get("SLURM_PROCID") == str(rank)
                and process.name().startswith("python")
            ):
                return process
    raise AssertionError(f"no rank {rank}")
