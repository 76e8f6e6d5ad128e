"""Numbers of each optimizer step, from metrics.jsonl: by arm and seed, and their means over seeds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from paced_megatron.config.budget import Budget
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

# What a step takes off a budget, by the budget's name.
_TAKES: dict[str, Callable[[Line], float]] = {
    "train_iters": lambda line: 1,
    "train_tokens": lambda line: line["tokens"],
    "train_seconds": lambda line: line["step_time"],
}


def loss_curve(arm: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Loss over all steps of all stages, counted on; and the step before which each stage begins."""
    return _curve(arm, runs, lambda line: _number(line["loss"]))


def losses(arms: Sequence[tuple[str, Sequence[RunRecord]]]) -> list[dict[str, Any]]:
    """`loss_curve` of each arm."""
    return _over_budgets([(runs, loss_curve(arm, runs)) for arm, runs in arms])


def step_curves(arms: Sequence[tuple[str, Sequence[RunRecord]]]) -> list[dict[str, Any]]:
    """A record for each row of CURVES that any step of any arm has: per arm as `loss_curve`."""
    found = []
    for name, read in CURVES.items():
        curves = _over_budgets([(runs, _curve(arm, runs, read)) for arm, runs in arms])
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


def _over_budgets(curves: Sequence[tuple[Sequence[RunRecord], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The curves, each with `by_budget`: the same over the budget spent, a stage's from its number - 1 to its
    number; None for all where every stage of every run has a budget in steps.

    Of a budget in tokens or seconds each run makes another number of steps, so that runs are alike at the
    same share of it, not at the same step.
    """
    budgets = [run.config.budget(stage.number) for runs, _ in curves for run in runs for stage in run.stages]
    if all(budget.steps is not None for budget in budgets):
        return [curve | {"by_budget": None} for _, curve in curves]
    return [curve | {"by_budget": _over_budget(runs, curve)} for runs, curve in curves]


def _over_budget(runs: Sequence[RunRecord], curve: Mapping[str, Any]) -> dict[str, Any]:
    """A curve over the budget spent; `mean` is taken where the first seed has its steps, the others' values
    there being those between two steps, by a straight line."""
    seeds = []
    for run, seed in zip(runs, curve["seeds"], strict=True):
        places = _places(run, [int(begin) for begin, _ in curve["stages"]])
        points = [(places[step], value) for step, value in seed["points"]]
        seeds.append({"seed": seed["seed"], "points": points})
    means = [
        [x, mean([_between(seed["points"], x) for seed in seeds])]
        for x, _ in seeds[0]["points"]
        if all(seed["points"] for seed in seeds)
    ]
    stages = [[number - 1, number] for _, number in curve["stages"]]
    return {"mean": means, "seeds": seeds, "stages": stages}


def _places(run: RunRecord, starts: Sequence[int]) -> dict[int, float]:
    """Step, counted on over the stages -> the budget spent with it. The last step may spend more than was
    left, and a stage that ran out of texts spends less than all: no stage goes beyond its end."""
    found = {}
    for before, (stage, start) in enumerate(zip(run.stages, starts, strict=True)):
        budget: Budget = run.config.budget(stage.number)
        spent = list(accumulate(map(_TAKES[budget.name], stage.metrics)))
        whole = max(budget.amount, spent[-1])
        for line, amount in zip(stage.metrics, spent, strict=True):
            found[start + line["step"]] = before + amount / whole
    return found


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at x, on a straight line between the points beside it; beyond the ends that of the end."""
    at = bisect_left(points, x, key=lambda point: point[0])
    if at < len(points) and points[at][0] == x:
        return points[at][1]
    if at in (0, len(points)):
        return points[min(at, len(points) - 1)][1]
    (left, low), (right, high) = points[at - 1 : at + 1]
    return low + (high - low) * (x - left) / (right - left)


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
