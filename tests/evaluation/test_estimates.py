"""avg@k, pass@k, maj@k against every subset counted one by one; the intervals' coverage by simulation."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from paced_megatron.evaluation.estimates import (
    RESAMPLES,
    avg_at,
    maj_at,
    over_problems,
    paired,
    pass_at,
    sampling_error,
)

GOLD = "gold"


def all_attempts() -> list[list[str | None]]:
    """Forty problems' answers, some None, drawn from few so that ties are common."""
    rng = random.Random(3)
    return [
        [rng.choice((GOLD, "a", "b", "c", None)[: rng.randint(1, 5)]) for _ in range(rng.randint(1, 7))]
        for _ in range(40)
    ]


def majority(answers: tuple[str | None, ...]) -> float:
    """By the definition: the share of the correct answer among those with the most votes."""
    counts = Counter(answer for answer in answers if answer is not None)
    winners = [answer for answer, count in counts.items() if count == max(counts.values())]
    return winners.count(GOLD) / len(winners) if winners else 0.0


def wrong_votes(answers: list[str | None]) -> list[int]:
    return list(Counter(answer for answer in answers if answer not in (GOLD, None)).values())


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    for answers in all_attempts():
        for k in range(1, len(answers) + 1):
            subsets = list(combinations(answers, k))
            slow = sum(GOLD in subset for subset in subsets) / len(subsets)
            assert pass_at(answers.count(GOLD), len(answers), k) == pytest.approx(slow, abs=1e-12)


def test_maj_at_k_is_the_mean_over_all_subsets_with_ties_shared() -> None:
    for answers in all_attempts():
        wrong = wrong_votes(answers)
        for k in range(1, len(answers) + 1):
            subsets = list(combinations(answers, k))
            slow = sum(map(majority, subsets)) / len(subsets)
            found = maj_at(answers.count(GOLD), wrong, len(answers), k)
            assert found == pytest.approx(slow, abs=1e-12), (answers, k)


def test_for_one_attempt_all_three_are_the_share_that_is_correct() -> None:
    for answers in all_attempts():
        correct, attempts = answers.count(GOLD), len(answers)
        wrong = wrong_votes(answers)
        assert pass_at(correct, attempts, 1) == pytest.approx(avg_at(correct, attempts))
        assert maj_at(correct, wrong, attempts, 1) == pytest.approx(avg_at(correct, attempts))


def test_sixty_four_attempts_with_many_answers_are_counted_exactly() -> None:
    # Alone against 63 different wrong answers: two drawn are always a tie of two.
    assert maj_at(1, [1] * 63, 64, 2) == pytest.approx(1 / 64)  # in the subset with 2/64, and then half
    assert pass_at(1, 64, 64) == 1.0
    assert maj_at(22, [21, 21], 64, 64) == 1.0


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_attempts_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        pass_at(2, 4, k)
    with pytest.raises(ValueError, match=f"k = {k}"):
        maj_at(2, [2], 4, k)


def test_the_bootstrap_agrees_with_the_normal_interval_where_there_are_many_problems() -> None:
    rng = random.Random(1)
    shares = [rng.choice((0.0, 0.5, 1.0)) for _ in range(2000)]
    found = over_problems(shares)
    mean = sum(shares) / len(shares)
    error = math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares) / len(shares))
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_the_bootstrap_gives_the_same_interval_each_time_and_none_where_all_problems_are_alike() -> None:
    rng = random.Random(8)
    shares = [rng.random() for _ in range(40)]
    assert over_problems(shares) == over_problems(shares)
    assert over_problems([1.0, 1.0, 1.0]).low is None


# (a, b of the Beta that problems' pass rates are drawn from, problems, attempts), samples: 30 hard problems
# like AIME's, and 200 like MATH-500's. docs/evaluation.md has the coverage in 10,000 samples.
SETS = [((0.3, 1.0, 30, 8), 1500), ((0.3, 1.0, 30, 1), 1500), ((1.5, 0.5, 200, 4), 600)]


def samples(of: tuple[float, float, int, int], count: int, seed: int) -> tuple[np.ndarray, float]:
    """[count, problems] shares correct, and the true mean."""
    a, b, problems, attempts = of
    rng = np.random.default_rng(seed)
    return rng.binomial(attempts, rng.beta(a, b, (count, problems))) / attempts, a / (a + b)


def percentile(shares: np.ndarray) -> tuple[float, float]:
    """The textbook's percentile interval."""
    draws = np.random.default_rng(7).integers(0, len(shares), (RESAMPLES, len(shares)))
    low, high = np.quantile(shares[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


@pytest.mark.parametrize(("of", "count"), SETS)
def test_the_interval_holds_the_true_mean_in_95_of_100_samples(of, count) -> None:
    drawn, true = samples(of, count, seed=11)
    found = [over_problems(list(shares)) for shares in drawn]
    held = sum(one.low is not None and one.high is not None and one.low <= true <= one.high for one in found)
    assert 0.94 <= held / len(found) <= 0.97


def test_thirty_problems_need_more_than_the_percentile_interval() -> None:
    drawn, true = samples((0.3, 1.0, 30, 8), 1500, seed=11)
    held = [low <= true <= high for low, high in map(percentile, drawn)]
    assert sum(held) / len(held) < 0.94


def pairs(count: int, seed: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Shares of 30 problems, of 8 attempts each, by a student and by a better one (p + p(1-p)/4)."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.3, 1.0, (count, 30))
    shares = (rng.binomial(8, p) / 8, rng.binomial(8, p + p * (1 - p) / 4) / 8)
    return [
        ({str(i): float(x) for i, x in enumerate(one)}, {str(i): float(y) for i, y in enumerate(other)})
        for one, other in zip(*shares, strict=True)
    ]


def test_the_paired_interval_holds_the_true_gain_nearly_as_often_and_is_narrower_than_unpaired() -> None:
    # E[p(1-p)] of Beta(a, b) is ab / ((a+b)(a+b+1)).
    true = 0.3 / (1.3 * 2.3) / 4
    held, narrower = [], []
    for before, after in pairs(1000, seed=5):
        gain = paired(before, after)
        assert gain.low is not None and gain.high is not None
        held.append(gain.low <= true <= gain.high)
        ends = [over_problems(list(shares.values())) for shares in (before, after)]
        apart = math.hypot(*((one.high or 0) - (one.low or 0) for one in ends))
        narrower.append((gain.high - gain.low) / apart)
    assert sum(held) / len(held) >= 0.925
    assert float(np.median(narrower)) < 0.6


def test_a_pair_is_compared_on_the_problems_that_both_have() -> None:
    found = paired({"a": 0.0, "b": 0.5, "gone": 1.0}, {"a": 1.0, "b": 0.5, "new": 0.0})
    assert (found.mean, found.n) == (0.5, 2)
    with pytest.raises(ValueError, match="in common"):
        paired({"a": 0.0}, {"b": 1.0})


def test_the_sampling_error_is_the_spread_of_avg_at_k_at_fixed_problems() -> None:
    rates = (0.1, 0.2, 0.5, 0.8, 0.3, 0.6)
    rng = np.random.default_rng(2)
    counts = rng.binomial(8, rates, (4000, len(rates)))
    spread = float((counts / 8).mean(axis=1).std())
    told = [sampling_error([(int(c), 8) for c in row]) for row in counts]
    assert math.sqrt(np.mean([error**2 for error in told if error is not None])) == pytest.approx(
        spread, rel=0.05
    )
    assert sampling_error([(1, 1), (0, 1)]) is None
