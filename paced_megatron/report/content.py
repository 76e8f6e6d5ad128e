"""All that a report says, as one JSON object made from the runs' files: the page, the pictures and the tables
are drawn from it and from nothing else.

Where an experiment has arms and seeds, a single run is one arm with one seed. Every share is in [0, 1], every
interval is one of 95 %, and what is not finite is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paced_megatron.config.io import config_to_dict
from paced_megatron.experiments.intervals import mean
from paced_megatron.pacing.weights import effective_sample_size
from paced_megatron.report.accuracy import measures
from paced_megatron.report.cost import cost
from paced_megatron.report.movements import movement
from paced_megatron.report.source import RunRecord


@dataclass(frozen=True)
class Arm:
    """What was run under one name: `runs` has one for each seed; `overrides` are what sets the arm apart."""

    name: str
    overrides: Mapping[str, Any]
    runs: Sequence[RunRecord]


def report_content(
    name: str, arms: Sequence[Arm], *, reading: str, commands: Sequence[str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The report's JSON object.

    Args:
        arms: at least one, each with the same seeds.
        reading: the sentence that says what came out.
        commands: that run all of it again.
        more: further entries, such as the paired differences of an experiment.
    """
    first = arms[0].runs[0]
    content = {
        "name": name,
        "kind": "experiment" if len(arms) > 1 or len(arms[0].runs) > 1 else "run",
        "reading": reading,
        "seeds": [run.config.seed for run in arms[0].runs],
        "arms": [{"name": arm.name, "overrides": dict(arm.overrides), **_problems(arm.runs)} for arm in arms],
        "intervals": "seeds" if len(arms[0].runs) > 1 else "problems",
        "movements": [
            movement(arm.name, arm.runs, title=arm.name if len(arms) > 1 else None) for arm in arms
        ],
        "loss": [_loss(arm) for arm in arms],
        "accuracy": measures([(arm.name, arm.runs) for arm in arms]),
        "cost": [cost(arm.name, arm.runs) for arm in arms],
        "differences": [],
        "again": {
            "commands": list(commands),
            "config": config_to_dict(first.config),
            "environment": first.environment,
        },
        **more,
    }
    return finite(content)


def _problems(runs: Sequence[RunRecord]) -> dict[str, float]:
    """How many training problems there are, and of which kinds; `kept` are trained on, `ess` of equal weight
    would be as noisy. Means over the runs."""
    found = []
    for run in runs:
        records = run.stages[0].pass_rates
        weights = [record["weight"] for record in records if record["kept"]]
        found.append(
            {
                "problems": len(records),
                "never": sum(record["correct"] == 0 for record in records),
                "always": sum(record["correct"] == record["attempts"] for record in records),
                "kept": len(weights),
                "ess": effective_sample_size(weights) if weights else 0.0,
            }
        )
    return {key: mean([each[key] for each in found]) for key in found[0]}


def _loss(arm: Arm) -> dict[str, Any]:
    """Loss over all steps of all stages, counted on; and the step before which each stage begins.

    Where seeds end a stage with different steps (a budget in tokens or seconds) the next one begins after the
    longest, for all of them; a mean is taken where every seed has a step.
    """
    starts = [0]
    for number in range(len(arm.runs[0].stages)):
        starts.append(starts[-1] + max(run.stages[number].metrics[-1]["step"] for run in arm.runs))
    seeds: list[dict[str, Any]] = [
        {"seed": run.config.seed, "points": _points(run, starts)} for run in arm.runs
    ]
    losses = [dict(seed["points"]) for seed in seeds]
    shared = [step for step in losses[0] if all(step in others for others in losses)]
    means = [[step, mean([others[step] for others in losses])] for step in shared]
    stages = [[start + 0.5, number] for number, start in enumerate(starts[:-1], start=1)]
    return {"arm": arm.name, "mean": means, "seeds": seeds, "stages": stages}


def _points(run: RunRecord, starts: Sequence[int]) -> list[list[float]]:
    return [
        [start + record["step"], _number(record["loss"])]
        for stage, start in zip(run.stages, starts, strict=False)
        for record in stage.metrics
    ]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite: JSON has no other word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def run_content(run: RunRecord) -> dict[str, Any]:
    """The report of a single run."""
    return report_content(
        run.name,
        [Arm(run.name, {}, [run])],
        reading=_reading(run),
        commands=[f"paced run {run.name}/config.yaml run_dir=runs/again", f"paced report {run.name}"],
        more={},
    )


def _reading(run: RunRecord) -> str:
    """What came out, in a sentence that claims no more than one run can show."""
    found = measures([(run.name, [run])])
    if not found:
        steps = sum(len(stage.metrics) for stage in run.stages)
        return f"{steps} optimizer steps were taken; there were no held-out problems to measure them on."
    entry = found[0]["arms"][0]
    before, after = (f"{100 * entry[when]['mean']:.1f} %" for when in ("before", "after"))
    gain = entry["gain"]
    moved = f"Accuracy on held-out problems went from {before} to {after}"
    if gain["low"] is None:
        return f"{moved}."
    mean, low, high = (f"{100 * gain[key]:+.1f}".replace("-", "−") for key in ("mean", "low", "high"))
    clear = "" if gain["low"] > 0 or gain["high"] < 0 else " That can't be told from no change."
    return (
        f"{moved}, {mean} points (95 % interval {low} to {high}, over problems).{clear} What the weights had "
        "to do with it a single run doesn't show: that takes arms and seeds (paced compare)."
    )
