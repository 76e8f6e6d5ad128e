"""Killed and started again: nothing is lost or there twice, and the weights are those of a whole run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from loop.recipes import (
    ATTEMPTS,
    TEST_PROBLEMS,
    TRAIN_PROBLEMS,
    keys,
    records,
    run_paced,
    start_paced,
    without_times,
    write_recipe,
)

TRAIN_ITERS, SAVE_INTERVAL, EVALUATE_EVERY = 12, 3, 4
EVALUATION_ATTEMPTS = 8
SECTIONS = {
    "rollout": {"attempts": ATTEMPTS, "max_new_tokens": 16, "batch_size": 4},  # many short units of work
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


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def in_rollouts(run: Path) -> bool:
    return 8 <= lines(run / "stage-1/attempts.jsonl") < TRAIN_PROBLEMS * ATTEMPTS


def in_training(run: Path) -> bool:
    """Between two checkpoints, at one of several steps: on a busy machine one passes between two looks."""
    return lines(run / "stage-1/metrics.jsonl") in (2, 4, 5)


def in_evaluation(run: Path) -> bool:
    """In one of those that come after `in_training`."""
    folders = (run / f"stage-1/evaluation/step-{step:07d}" for step in (2 * EVALUATE_EVERY, TRAIN_ITERS))
    made = (lines(folder / "test-sampled.jsonl") for folder in folders)
    return any(4 <= count < TEST_PROBLEMS * EVALUATION_ATTEMPTS for count in made)


def interrupt_when(
    recipe: Path, reached: Callable[[Path], bool], send: Callable[[int], None]
) -> tuple[int, str]:
    """Start `paced run`, send(pid) as soon as the run's folder shows the moment; (exit code, stderr)."""
    run = recipe.parent / "run"
    process = start_paced("run", recipe)
    deadline = time.monotonic() + 120
    while not reached(run):
        assert process.poll() is None, f"ended before {reached.__name__}: {process.communicate()}"
        assert time.monotonic() < deadline, f"{reached.__name__} was not reached"
        time.sleep(0.002)
    send(process.pid)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def of_this_run(recipe: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and str(recipe) in process.info["cmdline"]
    ]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> Path:
    recipe = write_recipe(tmp_path_factory.mktemp("whole"), **SECTIONS)
    code, output, errors = run_paced("run", recipe)
    assert code == 0, output + errors
    return recipe.parent / "run"


def assert_same_run(run: Path, other: Path) -> None:
    """Attempts, evaluations, steps and weights are equal; only times may differ."""
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


def test_killed_in_rollouts_training_and_evaluation_it_ends_with_the_same_weights(tmp_path, never_killed):
    recipe = write_recipe(tmp_path, **SECTIONS)
    run = recipe.parent / "run"
    for moment in (in_rollouts, in_training, in_evaluation):
        code, _ = interrupt_when(recipe, moment, kill)
        assert code == -signal.SIGKILL
    code, output, errors = run_paced("run", recipe)
    assert code == 0, output + errors
    attempts = keys(run / "stage-1/attempts.jsonl")
    assert len(attempts) == len(set(attempts)) == TRAIN_PROBLEMS * ATTEMPTS
    assert_same_run(run, never_killed)


@pytest.mark.parallel
def test_killed_at_tp2_it_leaves_no_process_behind_and_goes_on(tmp_path):
    recipe = write_recipe(tmp_path, **SECTIONS, parallel={"tensor_model_parallel_size": 2})
    interrupt_when(recipe, in_training, kill)
    deadline = time.monotonic() + 10
    while of_this_run(recipe):
        assert time.monotonic() < deadline, of_this_run(recipe)
        time.sleep(0.1)
    code, output, errors = run_paced("run", recipe)
    assert code == 0, output + errors
    steps = [record["step"] for record in records(recipe.parent / "run/stage-1/metrics.jsonl")]
    assert steps == list(range(1, TRAIN_ITERS + 1))


@pytest.mark.parallel
def test_ctrl_c_ends_a_run_over_two_processes_with_one_line_and_a_second_start_goes_on(tmp_path):
    recipe = write_recipe(tmp_path, **SECTIONS, parallel={"tensor_model_parallel_size": 2})
    code, errors = interrupt_when(recipe, in_rollouts, lambda pid: os.kill(pid, signal.SIGINT))
    assert code == 130
    assert errors.strip().splitlines() == ["paced: interrupted; the same command goes on from here"]
    assert not of_this_run(recipe)
    made = lines(recipe.parent / "run/stage-1/attempts.jsonl")
    code, output, errors = run_paced("rollout", recipe)
    assert code == 0, errors
    attempts = keys(recipe.parent / "run/stage-1/attempts.jsonl")
    assert len(attempts) == len(set(attempts)) == TRAIN_PROBLEMS * ATTEMPTS
    assert f"{made}/{TRAIN_PROBLEMS * ATTEMPTS} attempts" in output
