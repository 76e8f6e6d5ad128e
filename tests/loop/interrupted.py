"""Runs that are interrupted: a recipe with many short units of work, at three layouts, and what has to be
equal in the end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from loop.forked import ForkedJob
from loop.recipes import ATTEMPTS, TEST_PROBLEMS, TRAIN_PROBLEMS, records, without_times, write_recipe
from paced_megatron.config.io import dump_config, load_config

TRAIN_ITERS, SAVE_INTERVAL, EVALUATE_EVERY = 12, 3, 4
EVALUATION_ATTEMPTS = 8
SECTIONS = {
    "rollout": {
        "attempts": ATTEMPTS,
        "max_new_tokens": 16,
        "batch_size": 4,  # many short units of work
        "respond_to": "all",
    },
    "stages": [{"divergence": "forward_kl", "train_iters": TRAIN_ITERS}],
    "training": {
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "save_interval": SAVE_INTERVAL,
    },
    "evaluation": {
        "every": EVALUATE_EVERY,
        "attempts": EVALUATION_ATTEMPTS,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
    },
}
LAYOUTS = {
    "TP1": {},
    "TP2": {"tensor_model_parallel_size": 2},
    "DP2": {"data_parallel_size": 2, "use_distributed_optimizer": True},
}


def world_size(layout: str) -> int:
    return 1 if layout == "TP1" else 2


def recipe_at(folder: Path, layout: str, answered: Path | None = None, **sections: Any) -> Path:
    """A recipe in `folder`, `sections` in place of its own; with the text of the run `answered`, so that
    training is what comes next: neither attempts nor responses depend on the layout."""
    recipe = write_recipe(folder, **(SECTIONS | {"parallel": LAYOUTS[layout]} | sections))
    if answered is not None:
        run = folder / "run"
        (run / "stage-1").mkdir(parents=True)
        for name in ("attempts", "pass_rates", "responses"):
            shutil.copy(answered / f"stage-1/{name}.jsonl", run / f"stage-1/{name}.jsonl")
        for name in ("problems.jsonl", "environment.json"):
            shutil.copy(answered / name, run / name)
        (run / "config.yaml").write_text(dump_config(load_config(recipe, [])))
    return recipe


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def steps_taken(run: Path) -> int:
    return lines(run / "stage-1/metrics.jsonl")


def in_rollouts(run: Path) -> bool:
    return 8 <= lines(run / "stage-1/attempts.jsonl") < TRAIN_PROBLEMS * ATTEMPTS


def in_responses(run: Path) -> bool:
    return 4 <= lines(run / "stage-1/responses.jsonl") < TRAIN_PROBLEMS


def in_training(run: Path) -> bool:
    """Between two checkpoints, at one of several steps: on a busy machine one passes between two looks."""
    return steps_taken(run) in (1, 2, 4, 5, 7)


def in_a_save(run: Path, after: int = 0) -> bool:
    """Within a checkpoint's write; `after`: of this step or a later one."""
    folders = (run / "stage-1/checkpoints").glob("saving_*")
    return any(int(folder.name.removeprefix("saving_")) >= after for folder in folders)


def in_evaluation(run: Path) -> bool:
    """In one of those that come after `in_training`."""
    folders = (run / f"stage-1/evaluation/step-{step:07d}" for step in (2 * EVALUATE_EVERY, TRAIN_ITERS))
    made = (lines(folder / "test-sampled.jsonl") for folder in folders)
    return any(4 <= count < TEST_PROBLEMS * EVALUATION_ATTEMPTS for count in made)


def wait_for(job: ForkedJob, moment: Callable[[Path], bool], run: Path, seconds: float = 120.0) -> bool:
    """Whether the moment has come, before the job ended."""
    deadline = time.monotonic() + seconds
    while not moment(run):
        if not job.runs:
            return False
        assert time.monotonic() < deadline, f"{moment} was not reached\n{job.said()}"
        time.sleep(0.003)
    return True


def assert_same_run(run: Path, other: Path) -> None:
    """Attempts, evaluations, steps and weights are equal; only times may differ. Nothing else is left."""
    for name in ("stage-1/attempts.jsonl", "stage-1/responses.jsonl", "stage-1/pass_rates.jsonl"):
        assert records(run / name) == records(other / name), name
    steps = [record["step"] for record in records(run / "stage-1/metrics.jsonl")]
    assert steps == list(range(1, TRAIN_ITERS + 1))
    for one, two in zip(
        records(run / "stage-1/metrics.jsonl"), records(other / "stage-1/metrics.jsonl"), strict=True
    ):
        assert without_times(one) == without_times(two)
    rows, expected = (json.loads((folder / "evaluation.json").read_text()) for folder in (run, other))
    assert rows == expected
    weights, truth = (load_file(folder / "stage-1/hf/model.safetensors") for folder in (run, other))
    assert weights.keys() == truth.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in truth.items())
    assert sorted(path.name for path in (run / "stage-1").iterdir()) == sorted(
        path.name for path in (other / "stage-1").iterdir()
    )
    assert not in_a_save(run)
