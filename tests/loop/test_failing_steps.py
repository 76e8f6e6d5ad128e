"""A run over three pipeline stages that fails in the middle of training: how it ends, and what is left."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from loop.recipes import QUICKSTART, adopt, end_a_rank, records, run_paced, start_paced, write_recipe

pytestmark = pytest.mark.parallel

TRAIN = {"micro_batch_size": 2, "global_batch_size": 4, "lr": 1e-3, "save_interval": 1}


@pytest.fixture
def pipelined(answered, tmp_path) -> Path:
    """A recipe of three processes that has the same left to do."""
    recipe = write_recipe(
        tmp_path,
        parallel={"pipeline_model_parallel_size": 3},  # the quickstart's student has three layers
        teacher={
            "path": str(QUICKSTART / "teacher"),
            "tensor_model_parallel_size": 1,
            "pipeline_model_parallel_size": 1,
        },
        training=TRAIN,
        stages=[{"divergence": "forward_kl", "train_iters": 2000}],
        evaluation={"every": 0},
    )
    shutil.copytree(answered, tmp_path / "run")
    adopt(recipe)
    return recipe


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "stage-1/checkpoints").glob("iter_*"))


def test_a_rank_that_dies_ends_the_job_within_a_minute_with_the_cause(pipelined):
    code, errors = end_a_rank(start_paced("train", pipelined), 1, pipelined.parent / "run")
    assert code == 128 + signal.SIGKILL  # handed on, as a shell does
    assert "rank 1" in errors and "9" in errors, errors


def test_a_step_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint_before_it(pipelined):
    """A step of 1e30 leaves finite weights, with which nothing after it is finite."""
    run = pipelined.parent / "run"
    adopt(pipelined, "training.lr=1e30")
    code, _, errors = run_paced("train", pipelined, "training.lr=1e30")
    (line,) = [line for line in errors.splitlines() if line.startswith("paced: ")]
    assert code == 2 and line.startswith("paced: step 2: ") and "not finite" in line, line
    assert re.search(r"it began on rank \d: ", line) and "this step's problems: train-" in line, line
    assert checkpoints(run) == ["iter_0000001"]
    assert [record["step"] for record in records(run / "stage-1/metrics.jsonl")] == [1]
