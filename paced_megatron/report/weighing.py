"""The weights in force: how they are spread over the problems of each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paced_megatron.experiments.intervals import mean
from paced_megatron.pacing.weights import effective_sample_size
from paced_megatron.report.source import RunRecord, StageRecord

# Which of the kept problems' weights, in order, from 0 for the smallest to 1 for the largest.
QUANTILES = {"smallest": 0.0, "lower_quarter": 0.25, "median": 0.5, "upper_quarter": 0.75, "largest": 1.0}
STAGE_NUMBERS = ("problems", "never", "always", "kept", "ess", *QUANTILES)  # of a record of `stage_weights`


def stage_weights(arm: str, runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A record for each stage, its numbers means over the arm's runs; null where nothing is kept.

    `never`, `always`: problems of which no attempt, or each, was correct; `kept` are trained on; `ess` of
    equal weight would be as noisy as the kept ones. The rest are the kept problems' weights; `normalize` is
    the arm's, what they have the mean 1 over (`pacing.normalize`).
    """
    found = []
    for number in range(len(runs[0].stages)):
        numbers = [_numbers(run.stages[number]) for run in runs]
        means = {key: mean([each[key] for each in numbers]) for key in numbers[0]}
        normalize = runs[0].config.pacing.normalize
        found.append({"arm": arm, "stage": number + 1, **means, "normalize": normalize})
    return found


def _numbers(stage: StageRecord) -> dict[str, float]:
    records = stage.pass_rates
    weights = sorted(record["weight"] for record in records if record["kept"])
    return {
        "problems": len(records),
        "never": sum(record["correct"] == 0 for record in records),
        "always": sum(record["correct"] == record["attempts"] for record in records),
        "kept": len(weights),
        "ess": effective_sample_size(weights) if weights else 0.0,
        **{name: _quantile(weights, q) for name, q in QUANTILES.items()},
    }


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Between the two nearest values in proportion."""
    if not ordered:
        return math.nan
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
