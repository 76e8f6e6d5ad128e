"""Pass rates before and after, and the weights made of those before: what the first picture shows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from paced_megatron.config import PacingConfig
from paced_megatron.evaluation.accuracy import SAMPLED, TEST
from paced_megatron.experiments.intervals import mean
from paced_megatron.pacing.kernels import make_kernel
from paced_megatron.report.source import RunRecord
from paced_megatron.report.statistics import moved, moved_by_chance, transitions

_CURVE_POINTS = 65
Counts = dict[str, tuple[int, int]]  # problem -> (correct attempts, attempts)


def movement(arm: str, runs: Sequence[RunRecord], title: str | None = None) -> dict[str, Any]:
    """Problems by correct attempts before and after, summed over the seeds.

    They are the training problems where these were attempted again by the trained student, else the held-out
    ones; without either there is an after of null.
    """
    problem_set, pairs = _pairs(runs)
    matrix = _sum([_matrix(before, after) for before, after in pairs]) if pairs else None
    before = [sum(row) for row in matrix] if matrix else _histogram(runs)
    after = [sum(column) for column in zip(*matrix, strict=True)] if matrix else None
    up, down, same = moved(matrix) if matrix else (None, None, None)
    chance = moved_by_chance(before, len(after) - 1) if after else (None, None)
    return {
        "arm": arm,
        "title": title,
        "problem_set": problem_set,
        "seeds": len(runs),
        "problems": sum(before),
        "before": before,
        "after": after,
        "matrix": matrix,
        "up": up,
        "down": down,
        "same": same,
        "up_by_chance": chance[0],
        "down_by_chance": chance[1],
        "weight_label": _label(runs[0].config.pacing),
        "weights": _weights(runs),
        "curve": _curve(runs),
    }


def _pairs(runs: Sequence[RunRecord]) -> tuple[str, list[tuple[Counts, Counts]]]:
    if all(run.pass_rates_after for run in runs):
        return "train", [(_counts(run.stages[0].pass_rates), _counts(run.pass_rates_after)) for run in runs]
    keys = [((*run.first, TEST, SAMPLED), (*run.last, TEST, SAMPLED)) for run in runs]
    if all(run.rows for run in runs):
        return TEST, [
            (run.attempted[first], run.attempted[last]) for run, (first, last) in zip(runs, keys, strict=True)
        ]
    return "train", []


def _counts(records: Sequence[dict[str, Any]]) -> Counts:
    return {record["problem_id"]: (record["correct"], record["attempts"]) for record in records}


def _matrix(before: Counts, after: Counts) -> list[list[int]]:
    return transitions(
        {problem: correct for problem, (correct, _) in before.items()},
        {problem: correct for problem, (correct, _) in after.items()},
        max(attempts for _, attempts in before.values()),
        max(attempts for _, attempts in after.values()),
    )


def _sum(matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _histogram(runs: Sequence[RunRecord]) -> list[int]:
    records = [record for run in runs for record in run.stages[0].pass_rates]
    counts = [0] * (max(record["attempts"] for record in records) + 1)
    for record in records:
        counts[record["correct"]] += 1
    return counts


def _weights(runs: Sequence[RunRecord]) -> list[list[float]]:
    """[k / K, mean weight over the problems with k correct attempts], those not kept counting as 0."""
    by_rate: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        for record in run.stages[0].pass_rates:
            by_rate[record["correct"] / record["attempts"]].append(record["weight"])
    return [[p, mean(weights)] for p, weights in sorted(by_rate.items())]


def _scale(run: RunRecord) -> float | None:
    """The factor from the kernel to the weights, where they are the kernel's; None where they are not."""
    kernel = make_kernel(run.config.pacing)
    factors = []
    for record in run.stages[0].pass_rates:
        if record["kept"]:
            value = kernel(record["correct"] / record["attempts"])
            factors.append(record["weight"] / value if value > 0 else math.inf)
    if not factors or max(factors) > min(factors) * (1 + 1e-9):
        return None
    return factors[0]


def _curve(runs: Sequence[RunRecord]) -> list[list[float]] | None:
    """[p, weight] of the kernel in force, its scale a mean over the runs; None where a run's weights are
    not the kernel's.

    It goes from the lowest pass rate that is kept to the highest, and on to 0 and 1 where it is 0 there.
    """
    scales = [scale for scale in map(_scale, runs) if scale is not None]
    if len(scales) < len(runs):
        return None
    scale = mean(scales)
    kernel = make_kernel(runs[0].config.pacing)
    kept = [
        record["correct"] / record["attempts"]
        for run in runs
        for record in run.stages[0].pass_rates
        if record["kept"]
    ]
    low = 0.0 if kernel(0.0) == 0 else min(kept)
    high = 1.0 if kernel(1.0) == 0 else max(kept)
    steps = _CURVE_POINTS - 1
    places = [low + (high - low) * at / steps for at in range(steps)] + [high]
    return [[p, scale * kernel(p)] for p in places]


def _label(pacing: PacingConfig) -> str:
    """The kernel as a formula."""
    return f"w(p) = {FORMULAS[pacing.kernel](pacing)}{', permuted' if pacing.permute else ''}"


def _beta_formula(pacing: PacingConfig) -> str:
    return _power("p", pacing.alpha) + _power("(1 − p)", pacing.beta) or "1"


# A row of pacing's KERNELS -> how the picture writes it.
FORMULAS: dict[str, Callable[[PacingConfig], str]] = {
    "beta": _beta_formula,
    "beta_fitted": lambda pacing: f"{_beta_formula(pacing)}, its peak at the mean pass rate",
    "sqrt": lambda pacing: "√(p(1 − p))",
    "gaussian": lambda pacing: f"exp(−(p − {pacing.gaussian_mean:g})² / (2 · {pacing.gaussian_std:g}²))",
    "band": lambda pacing: f"1 for {pacing.band_low:g} ≤ p ≤ {pacing.band_high:g}",
    "uniform": lambda pacing: "1",
}


def _power(base: str, exponent: float) -> str:
    if exponent == 0:
        return ""
    return base if exponent == 1 else f"{base}^{exponent:g} "
