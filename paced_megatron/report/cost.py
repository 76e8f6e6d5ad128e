"""What a run cost, in tokens and seconds: training, and apart from it what was generated and for what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paced_megatron.experiments.intervals import mean
from paced_megatron.report.source import RunRecord

# A column of the report -> the phases of timings.jsonl that belong to it.
GENERATED = {
    "rollouts": ("attempts", "rollouts"),
    "responses": ("responses",),
    "measuring": ("evaluation", "strata", "attempts_after", "forgetting"),
}


def cost(arm: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Steps, tokens and seconds, each a mean over the arm's runs.

    Training's tokens are those of the responses that were trained on, its seconds those of the steps. For the
    rest tokens are generated ones and seconds include loading the model; null where the run has no timings.
    What the arms of a seed share was made once, and counts in each.
    """
    steps = [[record for stage in run.stages for record in stage.metrics] for run in runs]
    columns: dict[str, Any] = {
        "arm": arm,
        "steps": mean([len(records) for records in steps]),
        "training": {
            "tokens": mean([sum(record["tokens"] for record in records) for records in steps]),
            "seconds": mean([math.fsum(record["step_time"] for record in records) for records in steps]),
        },
    }
    for column, phases in GENERATED.items():
        chosen = [[timing for timing in run.timings if timing.phase in phases] for run in runs]
        tokens = [sum(timing.tokens for timing in timings) for timings in chosen]
        seconds = [math.fsum(timing.seconds for timing in timings) for timings in chosen]
        known = all(chosen)
        columns[column] = {
            "tokens": mean(tokens) if known else None,
            "seconds": mean(seconds) if known else None,
        }
    return columns
