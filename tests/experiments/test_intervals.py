"""Intervals of paired differences, by numbers worked out by hand."""

from __future__ import annotations

import random

import pytest

from paced_megatron.experiments.intervals import deviation, interval, t_quantile


def test_three_differences_give_the_interval_of_the_textbook() -> None:
    # mean 2, deviation 1, 2 degrees of freedom: 2 -+ 4.303 / sqrt(3)
    assert deviation([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))


def test_one_difference_has_no_spread_and_no_interval() -> None:
    assert deviation([0.5]) is None
    assert interval([0.5]) is None


@pytest.mark.parametrize("differences", [[0.25, 0.25], [0.0, 0.0, 0.0], [0.48 - 0.33, 0.52 - 0.37]])
def test_differences_that_are_all_equal_give_no_interval(differences: list[float]) -> None:
    assert interval(differences) is None


# From a table of Student's t, 97.5 %.
@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (15, 2.131), (16, 2.120), (30, 2.042), (399, 1.966)]
)
def test_the_quantile_is_that_of_the_table(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-3)


@pytest.mark.parametrize("size", [3, 20])
def test_it_holds_the_true_mean_in_95_of_100_samples(size: int) -> None:
    rng = random.Random(4)
    held = 0
    for _ in range(4000):
        low, high = interval([rng.gauss(0.3, 1.0) for _ in range(size)]) or (1.0, -1.0)
        held += low <= 0.3 <= high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of the share
