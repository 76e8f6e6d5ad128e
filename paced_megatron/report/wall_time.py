"""Where the time of a run went: seconds by stage and phase, and within the optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from paced_megatron.experiments.intervals import mean
from paced_megatron.report.source import RunRecord

TRAINING, SYNC = "training", "sync"  # beside the phases of timings.jsonl


def wall_time(arm: str, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Seconds by stage and phase, each a mean over the arm's runs, with its share of them all.

    What the arms of a seed share was made once, and counts in each. Checkpoints, export and what lies
    between two phases are not timed, so that the sum is less than the time by the clock.

    `step`: parts of the optimizer steps (`timing_s` of metrics.jsonl), each on the rank where it took
    longest, so that their sum may be above the steps' own.
    """
    phases = _means([list(_seconds(run)) for run in runs])
    total = math.fsum(phases.values())
    step = _means([list(_parts(run)) for run in runs])
    return {
        "arm": arm,
        "seconds": total,
        "phases": [
            {"stage": stage, "phase": phase, "seconds": seconds, "share": seconds / total if total else None}
            for (stage, phase), seconds in phases.items()
        ],
        "step": [
            {"stage": stage, "part": part, "seconds": seconds} for (stage, part), seconds in step.items()
        ],
    }


def _seconds(run: RunRecord) -> Iterator[tuple[tuple[int, str], float]]:
    """In the order in which a stage's work begins."""
    for stage in run.stages:
        timings = [timing for timing in run.timings if timing.stage == stage.number]
        for timing in (timing for timing in timings if timing.phase != "attempts_after"):
            yield (stage.number, timing.phase), timing.seconds
        for metrics in stage.metrics:
            yield (stage.number, TRAINING), metrics["step_time"]
            if sync := metrics.get("timing_s", {}).get("sync"):
                yield (stage.number, SYNC), sync
        for timing in (timing for timing in timings if timing.phase == "attempts_after"):
            yield (stage.number, timing.phase), timing.seconds


def _parts(run: RunRecord) -> Iterator[tuple[tuple[int, str], float]]:
    for stage in run.stages:
        for metrics in stage.metrics:
            for part, seconds in metrics.get("timing_s", {}).items():
                if part not in (SYNC, "rollout"):  # these are not within a step
                    yield (stage.number, part), seconds


def _means(runs: Sequence[Sequence[tuple[tuple[int, str], float]]]) -> dict[tuple[int, str], float]:
    """Sums by key, means over the runs; a run without a key counts as 0 in it."""
    sums: list[dict[tuple[int, str], float]] = []
    for pairs in runs:
        sums.append({})
        for key, seconds in pairs:
            sums[-1][key] = sums[-1].get(key, 0.0) + seconds
    keys = dict.fromkeys(key for each in sums for key in each)
    return {key: mean([each.get(key, 0.0) for each in sums]) for key in keys}
