"""Numbers of each optimizer step, from metrics.jsonl: by arm and seed, and their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paced_megatron.experiments.intervals import mean
from paced_megatron.report.source import RunRecord

Line = Mapping[str, Any]  # of metrics.jsonl

# What is drawn beside the loss, by its name in metrics.jsonl -> the number in a line; None: not in this step.
CURVES: dict[str, Callable[[Line], float | None]] = {
    "grad_norm": lambda line: line.get("grad_norm"),
    "lr": lambda line: line.get("lr"),
    "tokens_kept": lambda line: line.get("tokens_kept"),
    # Of all attempts before the step; there are some in an on-policy stage only, and not before every step.
    "pass_rate": lambda line: line.get("rollout", {}).get("pass_rate"),
}


def loss_curve(arm: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Loss over all steps of all stages, counted on; and the step before which each stage begins."""
    return _curve(arm, runs, lambda line: _number(line["loss"]))


def step_curves(arms: Sequence[tuple[str, Sequence[RunRecord]]]) -> list[dict[str, Any]]:
    """A record for each row of CURVES that any step of any arm has: per arm as `loss_curve`."""
    found = []
    for name, read in CURVES.items():
        curves = [_curve(arm, runs, read) for arm, runs in arms]
        if any(seed["points"] for curve in curves for seed in curve["seeds"]):
            found.append({"name": name, "arms": curves})
    return found


def _curve(arm: str, runs: Sequence[RunRecord], read: Callable[[Line], float | None]) -> dict[str, Any]:
    """`mean` has the steps that every seed has.

    Where seeds end a stage with different steps (a budget in tokens or seconds) the next one begins after the
    longest, for all of them.
    """
    starts = [0]
    for number in range(len(runs[0].stages)):
        starts.append(starts[-1] + max(run.stages[number].metrics[-1]["step"] for run in runs))
    seeds: list[dict[str, Any]] = [
        {"seed": run.config.seed, "points": _points(run, starts, read)} for run in runs
    ]
    by_step: dict[int, list[float]] = {}
    for seed in seeds:
        for step, value in seed["points"]:
            by_step.setdefault(step, []).append(value)
    means = [[step, mean(found)] for step, found in sorted(by_step.items()) if len(found) == len(runs)]
    stages = [[start + 0.5, number] for number, start in enumerate(starts[:-1], start=1)]
    return {"arm": arm, "mean": means, "seeds": seeds, "stages": stages}


def _points(
    run: RunRecord, starts: Sequence[int], read: Callable[[Line], float | None]
) -> list[tuple[int, float]]:
    return [
        (start + line["step"], value)
        for stage, start in zip(run.stages, starts, strict=False)
        for line in stage.metrics
        if (value := read(line)) is not None
    ]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
