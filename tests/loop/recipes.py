"""A small recipe on the quickstart's real (tiny) models, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from paced_megatron.config.io import dump_config, load_config

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"

TRAIN_PROBLEMS, TEST_PROBLEMS, ATTEMPTS, TRAIN_ITERS = 40, 10, 4, 6


def some_lines(source: Path, count: int) -> str:
    """Every so-many-th line, so that all levels are there."""
    lines = source.read_text().splitlines(keepends=True)
    return "".join(lines[:: len(lines) // count][:count])


def write_recipe(folder: Path, **sections: Any) -> Path:
    """A recipe of a minute's fraction in `folder`; `sections` replace whole sections of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text(some_lines(QUICKSTART / "train.jsonl", TRAIN_PROBLEMS))
    (folder / "test.jsonl").write_text(some_lines(QUICKSTART / "test.jsonl", TEST_PROBLEMS))
    recipe = {
        "seed": 5,
        "run_dir": str(folder / "run"),
        "problems": {
            "train": "train.jsonl",
            "test": "test.jsonl",
            "verifier": {"kind": "exact", "answer_marker": "#"},
        },
        "student": {"path": str(QUICKSTART / "student")},
        "teacher": {"path": str(QUICKSTART / "teacher")},
        "pacing": {"estimator": "plugin"},  # with so few attempts the default is the posterior mean
        "rollout": {"attempts": ATTEMPTS, "max_new_tokens": 16, "batch_size": 16},
        "training": {
            "micro_batch_size": 2,
            "global_batch_size": 4,
            "lr": 1e-3,
            "weight_decay": 0.0,
            "save_interval": 2,
        },
        "stages": [{"divergence": "forward_kl", "train_iters": TRAIN_ITERS}],
        "evaluation": {"every": 3, "attempts": 2, "temperature": 1.0, "top_p": 1.0, "top_k": -1},
    } | sections
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start_paced(*arguments: str | Path) -> subprocess.Popen[str]:
    """`paced ARGUMENTS` in a process of its own, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, "-m", "paced_megatron.cli", *map(str, arguments)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_paced(*arguments: str | Path, timeout: float = 240) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `paced ARGUMENTS`."""
    process = start_paced(*arguments)
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output, errors


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(step: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl but for what the clock says."""
    return {key: step[key] for key in step if key not in ("step_time", "timing_s", "tokens_per_s")}


def keys(path: Path) -> Sequence[tuple[str, int]]:
    return [(record["problem_id"], record["index"]) for record in records(path)]


ARMS = {"everything": {"pacing.keep": "all", "pacing.kernel": "uniform"}, "paced": {}}


def write_experiment(
    folder: Path, arms: dict[str, Any] = ARMS, seeds: Sequence[int] = (1, 2), **sections: Any
) -> Path:
    """An experiment on `write_recipe`'s recipe, with every measurement that there is; its run_dir is
    FOLDER/experiment."""
    recipe = write_recipe(folder, **sections)
    document = yaml.safe_load(recipe.read_text())
    (folder / "forgetting.jsonl").write_text(some_lines(QUICKSTART / "forgetting.jsonl", TEST_PROBLEMS))
    document["problems"] |= {"forgetting": "forgetting.jsonl"}
    document["rollout"] |= {"respond_to": "all"}
    document["evaluation"] |= {"greedy": True, "strata_attempts": 4, "pass_rates_after": True}
    recipe.write_text(yaml.safe_dump(document))
    path = folder / "experiment.yaml"
    keys = {"run_dir": str(folder / "experiment"), "base": recipe.name, "arms": arms, "seeds": list(seeds)}
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


def adopt(recipe: Path, *overrides: str) -> None:
    """Make a copied run one of this recipe: what has been rolled out and answered does not depend on it."""
    config = load_config(recipe, overrides)
    (config.run_dir / "config.yaml").write_text(dump_config(config))


def end_a_rank(process: subprocess.Popen[str], rank: int, run: Path, after_steps: int = 2) -> tuple[int, str]:
    """Kill one rank of a job that trains, after some steps; (exit code, stderr) of the job, which has a
    minute to end."""
    metrics = run / "stage-1/metrics.jsonl"
    try:
        deadline = time.monotonic() + 180
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= after_steps):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        # Its own children alone: what a rank starts has the rank's environment, and may end meanwhile.
        (victim,) = [
            child
            for child in psutil.Process(process.pid).children()
            if child.environ().get("RANK") == str(rank)
        ]
        os.kill(victim.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors
