"""avg@k, pass@k and maj@k of a problem's attempts, and how sure their mean over problems is.

Pure functions of numbers. All three are unbiased: what k fresh attempts would give on average, from n >= k
attempts that were made. This is the one bootstrap of the tree; report/ uses it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from paced_megatron.experiments.intervals import mean, t_quantile

RESAMPLES = 2000
_BOOTSTRAP_SEED = 20260311


def avg_at(correct: int, attempts: int) -> float:
    """The share of the attempts that are correct: what one attempt gives on average."""
    return correct / attempts


def pass_at(correct: int, attempts: int, k: int) -> float:
    """The chance that at least one of k attempts is correct: 1 - C(n-c, k) / C(n, k), n = attempts.

    Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), equation 1. Exact: the
    mean over all subsets of k of the n attempts.

    Raises:
        ValueError: k is not in 1 ... attempts.
    """
    _check_k(k, attempts)
    return 1.0 - math.comb(attempts - correct, k) / math.comb(attempts, k)


def maj_at(correct: int, wrong: Sequence[int], attempts: int, k: int) -> float:
    """The chance that the answer which most of k attempts give is correct.

    Exact: the mean over all subsets of k of the attempts. Where t answers have the most votes, of which one
    is correct, a subset counts 1/t. An attempt without an answer has no vote; a subset without votes counts
    0.

    Args:
        correct: attempts with the correct answer; all of them vote for one answer.
        wrong: attempts for each of the other answers.
        attempts: n, those without an answer included.

    Raises:
        ValueError: k is not in 1 ... attempts.
    """
    _check_k(k, attempts)
    silent = attempts - correct - sum(wrong)
    total = 0.0
    for votes in range(1, min(correct, k) + 1):
        others = _ways(wrong, votes, k - votes)
        for (drawn, tied), ways in others.items():
            rest = k - votes - drawn
            if rest <= silent:
                subsets = math.comb(correct, votes) * ways * math.comb(silent, rest)
                total += subsets / (tied + 1) / math.comb(attempts, k)
    return total


def _ways(sizes: Sequence[int], most: int, room: int) -> dict[tuple[int, int], int]:
    """(attempts drawn, answers drawn exactly `most` times) -> subsets of the wrong attempts like that.

    No answer is drawn more than `most` times, and no more than `room` are drawn together.
    """
    ways = {(0, 0): 1}
    for size in sizes:
        longer: dict[tuple[int, int], int] = {}
        for (drawn, tied), before in ways.items():
            for votes in range(min(size, most, room - drawn) + 1):
                key = drawn + votes, tied + (votes == most)
                longer[key] = longer.get(key, 0) + before * math.comb(size, votes)
        ways = longer
    return ways


def _check_k(k: int, attempts: int) -> None:
    if not 1 <= k <= attempts:
        raise ValueError(f"k = {k} is not in 1 ... {attempts} attempts")


@dataclass(frozen=True)
class Estimate:
    """A mean, and its 95 % interval where one can be told; `n` is what the interval runs over."""

    mean: float
    low: float | None
    high: float | None
    n: int


def over_problems(values: Sequence[float], within: tuple[float, float] | None = None) -> Estimate:
    """Mean over problems of a value each has, with a 95 % bootstrap interval, problems drawn again with
    replacement.

    The interval is between quantiles of the resampled means: not the 2.5 and 97.5 % ones, which hold the
    truth too seldom where problems are few, but those a little farther out that Student's t asks for
    (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 5.3: the expanded percentile
    interval). docs/evaluation.md has its coverage.

    The same values always give the same interval. Values that are all alike give one of no width, which says
    how little the sample tells, not how sure it is; it is given as no interval. `within` changes nothing:
    means of what is possible are possible.
    """
    if len(set(values)) < 2:
        return Estimate(mean(values), None, None, len(values))
    held = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(_BOOTSTRAP_SEED).integers(0, len(held), (RESAMPLES, len(held)))
    tail = _tail(len(held))
    low, high = np.quantile(held[draws].mean(axis=1), (tail, 1 - tail))
    return Estimate(mean(values), float(low), float(high), len(values))


def _tail(problems: int) -> float:
    """What to leave out at either end: 0.025 for many problems, 0.0188 for 30.

    A resample's variance is (n-1)/n of the sample's, and a mean of few has Student's distribution.
    """
    return NormalDist().cdf(-t_quantile(problems - 1) * math.sqrt(problems / (problems - 1)))


def paired(before: Mapping[str, float], after: Mapping[str, float]) -> Estimate:
    """Mean over problems of after - before, with its interval; over the problems that both have.

    The problems' own difficulty, most of the spread of either mean, falls out.

    Raises:
        ValueError: they have no problem in common.
    """
    common = [problem for problem in before if problem in after]
    if not common:
        raise ValueError("no problem in common")
    return over_problems([after[problem] - before[problem] for problem in common])


def sampling_error(counts: Sequence[tuple[int, int]]) -> float | None:
    """The standard error of avg@k that more attempts at the same problems would remove.

    sqrt(sum p(1-p)/(k-1)) / n with p a problem's own pass rate: METHOD.md, section 4. None for one attempt a
    problem, which doesn't tell.

    Args:
        counts: (correct, attempts) of each problem.
    """
    if min(attempts for _, attempts in counts) < 2:
        return None
    shares = [(avg_at(correct, attempts), attempts) for correct, attempts in counts]
    return math.sqrt(math.fsum(p * (1 - p) / (k - 1) for p, k in shares)) / len(counts)
