"""What the report works out from a run's numbers: intervals, and movements between two pass rates.

Pure functions of plain numbers. Every interval is one of 95 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paced_megatron.experiments.intervals import interval, mean

RESAMPLES = 2000
_BOOTSTRAP_SEED = 20260311
Move = tuple[tuple[int, int], tuple[int, int]]  # a problem's (correct attempts, attempts) before and after


@dataclass(frozen=True)
class Estimate:
    """A mean, and its 95 % interval where one can be told; `n` is what the interval runs over."""

    mean: float
    low: float | None
    high: float | None
    n: int


def over_seeds(values: Sequence[float], within: tuple[float, float] | None = None) -> Estimate:
    """Mean over seeds with Student's t interval, cut off at the ends of what is possible.

    None for a single seed, and where all seeds gave the same, as in `over_problems`. A value that is not
    finite makes the mean not finite: it doesn't vanish.
    """
    if not all(map(math.isfinite, values)):
        return Estimate(math.nan, None, None, len(values))
    found = interval(values) if len(set(values)) > 1 else None
    low, high = found or (None, None)
    if within is not None and found is not None:
        low, high = max(found[0], within[0]), min(found[1], within[1])
    return Estimate(mean(values), low, high, len(values))


def over_problems(shares: Sequence[float], within: tuple[float, float] | None = None) -> Estimate:
    """Mean over problems with a percentile bootstrap interval, problems drawn again with replacement.

    The same shares always give the same interval. Shares that are all alike give one of no width, which says
    how little the sample tells, not how sure it is; it is given as no interval. `within` changes nothing:
    means of what is possible are possible.
    """
    if len(set(shares)) < 2:
        return Estimate(mean(shares), None, None, len(shares))
    values = np.asarray(shares, dtype=np.float64)
    draws = np.random.default_rng(_BOOTSTRAP_SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return Estimate(mean(shares), float(low), float(high), len(shares))


def moved(moves: Counter[Move]) -> tuple[int, int, int]:
    """(up, down, the same): problems whose pass rate rose, fell, stayed, whatever the numbers of attempts."""
    changes = [
        (later[0] * earlier[1] - earlier[0] * later[1], problems)
        for (earlier, later), problems in moves.items()
    ]
    up = sum(problems for change, problems in changes if change > 0)
    down = sum(problems for change, problems in changes if change < 0)
    return up, down, moves.total() - up - down


def moved_by_chance(before: Sequence[int], attempts_after: int) -> tuple[float, float]:
    """(up, down) to expect of a student that has not changed, if its true pass rates were those measured.

    before[k]: problems with k correct attempts. Each is attempted again, Binomial(attempts_after, k / K)
    correct. Problems with k = 0 or K then cannot move, though in truth some can: it is a floor.
    """
    attempts, up, down = len(before) - 1, 0.0, 0.0
    for correct, problems in enumerate(before):
        p = correct / attempts
        for after in range(attempts_after + 1):
            chance = math.comb(attempts_after, after) * p**after * (1 - p) ** (attempts_after - after)
            change = after * attempts - correct * attempts_after
            up, down = up + problems * chance * (change > 0), down + problems * chance * (change < 0)
    return up, down
