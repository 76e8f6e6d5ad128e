"""What the report works out from a run's numbers: intervals, and movements between two pass rates.

Pure functions of plain numbers. Every interval is one of 95 %; those over problems are in
`evaluation/estimates.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from paced_megatron.evaluation.estimates import Estimate
from paced_megatron.experiments.intervals import interval, mean

Move = tuple[tuple[int, int], tuple[int, int]]  # a problem's (correct attempts, attempts) before and after


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
