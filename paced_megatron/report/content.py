"""All that a report says, as one JSON object made from the runs' files: the page, the pictures and the tables
are drawn from it and from nothing else.

Where an experiment has arms and seeds, a single run is one arm with one seed. Every share is in [0, 1], every
interval is one of 95 %, and what is not finite is null.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paced_megatron.config.io import config_to_dict
from paced_megatron.report.accuracy import measures
from paced_megatron.report.cost import cost
from paced_megatron.report.forgetting import forgetting
from paced_megatron.report.movements import movement
from paced_megatron.report.outcomes import examples, outcomes
from paced_megatron.report.source import RunRecord
from paced_megatron.report.steps import losses, step_curves
from paced_megatron.report.wall_time import wall_time
from paced_megatron.report.weighing import stage_weights


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
    named = [(arm.name, arm.runs) for arm in arms]
    content = {
        "name": name,
        "kind": "experiment" if len(arms) > 1 or len(arms[0].runs) > 1 else "run",
        "reading": reading,
        "seeds": [run.config.seed for run in arms[0].runs],
        "arms": [{"name": arm.name, "overrides": dict(arm.overrides), **_problems(arm)} for arm in arms],
        "intervals": "seeds" if len(arms[0].runs) > 1 else "problems",
        "movements": [
            movement(arm.name, arm.runs, title=arm.name if len(arms) > 1 else None) for arm in arms
        ],
        "weights": [record for arm in arms for record in stage_weights(arm.name, arm.runs)],
        "loss": losses(named),
        "steps": step_curves(named),
        "accuracy": measures(named),
        "forgetting": forgetting([(arm.name, [run.forgetting for run in arm.runs]) for arm in arms]),
        "outcomes": outcomes(named),
        "examples": examples(named),
        "cost": [cost(arm.name, arm.runs) for arm in arms],
        "time": [wall_time(arm.name, arm.runs) for arm in arms],
        "differences": [],
        "again": {
            "typed": first.environment.get("command"),
            "commands": [*_checkout(first.environment), *commands],
            "config": config_to_dict(first.config),
            "environment": first.environment,
        },
        **more,
    }
    return finite(content)


def _checkout(environment: Mapping[str, Any]) -> list[str]:
    """To the commit that ran, where it was one."""
    commit = str(environment.get("commit", ""))
    clean = commit.removesuffix("-dirty")
    if not clean or not all(letter in "0123456789abcdef" for letter in clean):
        return []
    changed = "  # and changes in the clone that no commit has" if commit != clean else ""
    return [f"git checkout {clean}{changed}"]


def _problems(arm: Arm) -> dict[str, Any]:
    """How many training problems there are, and of which kinds, before training."""
    first = stage_weights(arm.name, arm.runs)[0]
    return {key: first[key] for key in ("problems", "never", "always", "kept", "ess")}


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
        commands=[f"paced run {shlex.quote(f'{run.config.run_dir}/config.yaml')} run_dir=runs/again"],
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
