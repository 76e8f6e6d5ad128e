"""Pass rates before and after, and the weights made of those before: what the first picture shows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from paced_megatron.config import PacingConfig
from paced_megatron.evaluation.accuracy import SAMPLED, TEST
from paced_megatron.experiments.intervals import mean
from paced_megatron.pacing.kernels import make_kernel
from paced_megatron.report.formulas import kernel_formula
from paced_megatron.report.source import RunRecord
from paced_megatron.report.statistics import Move, moved, moved_by_chance

_CURVE_POINTS = 65
MOST_BARS = 17  # a histogram with more is too fine to be read, and its ribbons too many for a page
_BANDS = 10  # of the pass rate, where problems have different numbers of attempts, or very many
Counts = dict[str, tuple[int, int]]  # problem -> (correct attempts, attempts)


@dataclass(frozen=True)
class Moment:
    """When problems were attempted: `counts` for each run; `stage` is the one that is weighed by it."""

    name: str
    counts: Sequence[Counts]
    stage: int | None = None

    @property
    def attempts(self) -> int | None:
        """K, where it is the same for all problems and small enough for a bar for each k; else None."""
        numbers = {attempts for counts in self.counts for _, attempts in counts.values()}
        return numbers.pop() if len(numbers) == 1 and max(numbers) < MOST_BARS else None

    @property
    def bars(self) -> int:
        return (self.attempts or _BANDS) + 1

    def bar(self, correct: int, attempts: int) -> int:
        """Which bar counts such a problem. Bands are rounded to, but for never and always: these have bars of
        their own, since a weight of 0 is theirs alone."""
        if self.attempts is not None or correct in (0, attempts):
            return correct if self.attempts is not None else (_BANDS if correct else 0)
        return min(max(round(correct / attempts * _BANDS), 1), _BANDS - 1)

    def histogram(self) -> list[int]:
        """Problems by bar, summed over the runs."""
        found = [0] * self.bars
        for correct, attempts in (each for counts in self.counts for each in counts.values()):
            found[self.bar(correct, attempts)] += 1
        return found


def movement(arm: str, runs: Sequence[RunRecord], title: str | None = None) -> dict[str, Any]:
    """Problems by correct attempts before and after, summed over the seeds.

    They are the training problems where these were attempted more than once: before each stage, and by the
    trained student where the run asks for it. Else they are the held-out ones, before and after; without
    either there is an after of null. A problem is counted in all moments or in none.
    """
    problem_set, moments = _moments(runs)
    matrices = [_matrix(*pair) for pair in pairwise(moments)]
    histograms = [moment.histogram() for moment in moments]
    moves = _moves(moments[0], moments[-1]) if len(moments) > 1 else Counter[Move]()
    up, down, same = moved(moves) if moves else (None, None, None)
    chance = _moved_by_chance(moves) if moves else (None, None)
    weights, curve = _weights(runs, 1, moments[0]), _curve(runs, 1)
    return {
        "arm": arm,
        "title": title,
        "problem_set": problem_set,
        "seeds": len(runs),
        "problems": sum(histograms[0]),
        "before": histograms[0],
        "after": histograms[-1] if len(moments) > 1 else None,
        "matrix": _matrix(moments[0], moments[-1]) if len(moments) > 1 else None,
        "up": up,
        "down": down,
        "same": same,
        "up_by_chance": chance[0],
        "down_by_chance": chance[1],
        "weight_label": _label(runs[0].config.pacing),
        "weights": weights,
        "curve": curve,
        "moments": [
            {
                "name": moment.name,
                "attempts": moment.attempts,
                "counts": counts,
                "weights": _weights(runs, moment.stage, moment) if moment.stage else [],
                "curve": _curve(runs, moment.stage) if moment.stage else None,
            }
            for moment, counts in zip(moments, histograms, strict=True)
        ],
        "matrices": matrices,
        "moves": [
            [before.name, after.name, *move[0], *move[1], problems]
            for before, after in pairwise(moments)
            for move, problems in sorted(_moves(before, after).items())
        ],
    }


def _moments(runs: Sequence[RunRecord]) -> tuple[str, list[Moment]]:
    stages = [
        Moment(
            "before" if number == 1 else f"before stage {number}",
            [_counts(run.stages[number - 1].pass_rates) for run in runs],
            number,
        )
        for number in range(1, len(runs[0].stages) + 1)
    ]
    if all(run.pass_rates_after for run in runs):
        return "train", _alike([*stages, Moment("after", [_counts(run.pass_rates_after) for run in runs])])
    if len(stages) > 1 or not all(run.rows for run in runs):
        return "train", _alike(stages)
    first, last = (
        [run.correct((*end, TEST, SAMPLED)) for run, end in zip(runs, ends, strict=True)]
        for ends in ([run.first for run in runs], [run.last for run in runs])
    )
    return TEST, _alike([Moment("before", first, 1), Moment("after", last)])


def _alike(moments: Sequence[Moment]) -> list[Moment]:
    """Only those problems that are there at each moment."""
    kept = [
        set.intersection(*(set(moment.counts[run]) for moment in moments))
        for run in range(len(moments[0].counts))
    ]
    return [
        replace(
            moment,
            counts=[
                {problem: count for problem, count in counts.items() if problem in problems}
                for counts, problems in zip(moment.counts, kept, strict=True)
            ],
        )
        for moment in moments
    ]


def _counts(records: Sequence[dict[str, Any]]) -> Counts:
    return {record["problem_id"]: (record["correct"], record["attempts"]) for record in records}


def _moves(before: Moment, after: Moment) -> Counter[Move]:
    """How many problems went from where to where, summed over the runs."""
    return Counter(
        (count, later[problem])
        for earlier, later in zip(before.counts, after.counts, strict=True)
        for problem, count in earlier.items()
    )


def _matrix(before: Moment, after: Moment) -> list[list[int]]:
    """matrix[bar before][bar after]: problems."""
    matrix = [[0] * after.bars for _ in range(before.bars)]
    for (earlier, later), problems in _moves(before, after).items():
        matrix[before.bar(*earlier)][after.bar(*later)] += problems
    return matrix


def _moved_by_chance(moves: Counter[Move]) -> tuple[float, float]:
    """As `statistics.moved_by_chance`, problems with other numbers of attempts apart."""
    groups: dict[tuple[int, int], list[int]] = {}
    for ((correct, attempts), (_, attempts_after)), problems in moves.items():
        groups.setdefault((attempts, attempts_after), [0] * (attempts + 1))[correct] += problems
    found = [moved_by_chance(before, after) for (_, after), before in groups.items()]
    return math.fsum(up for up, _ in found), math.fsum(down for _, down in found)


def _weights(runs: Sequence[RunRecord], stage: int, moment: Moment) -> list[list[float]]:
    """[pass rate, mean weight over the problems with it], those not kept counting as 0; by bar where the
    moment has bands."""
    bands = moment.stage == stage and moment.attempts is None
    by_rate: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        for record in run.stages[stage - 1].pass_rates:
            correct, attempts = record["correct"], record["attempts"]
            p = moment.bar(correct, attempts) / _BANDS if bands else correct / attempts
            by_rate[p].append(record["weight"])
    return [[p, mean(weights)] for p, weights in sorted(by_rate.items())]


def _scale(run: RunRecord, stage: int) -> float | None:
    """The factor from the kernel to the weights, where they are the kernel's; None where they are not."""
    kernel = make_kernel(run.config.pacing)
    factors = []
    for record in run.stages[stage - 1].pass_rates:
        if record["kept"]:
            value = kernel(record["correct"] / record["attempts"])
            factors.append(record["weight"] / value if value > 0 else math.inf)
    if not factors or max(factors) > min(factors) * (1 + 1e-9):
        return None
    return factors[0]


def _curve(runs: Sequence[RunRecord], stage: int) -> list[list[float]] | None:
    """[p, weight] of the kernel in force, its scale a mean over the runs; None where a run's weights are
    not the kernel's.

    It goes from the lowest pass rate that is kept to the highest, and on to 0 and 1 where it is 0 there.
    """
    scales = [scale for scale in (_scale(run, stage) for run in runs) if scale is not None]
    if len(scales) < len(runs):
        return None
    scale = mean(scales)
    kernel = make_kernel(runs[0].config.pacing)
    kept = [
        record["correct"] / record["attempts"]
        for run in runs
        for record in run.stages[stage - 1].pass_rates
        if record["kept"]
    ]
    low = 0.0 if kernel(0.0) == 0 else min(kept)
    high = 1.0 if kernel(1.0) == 0 else max(kept)
    steps = _CURVE_POINTS - 1
    places = [low + (high - low) * at / steps for at in range(steps)] + [high]
    return [[p, scale * kernel(p)] for p in places]


def _label(pacing: PacingConfig) -> str:
    """The kernel as a formula, and whether its weights were dealt out anew."""
    return f"w(p) = {kernel_formula(pacing)}{', permuted' if pacing.permute else ''}"
