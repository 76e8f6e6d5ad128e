"""Intervals and movements, against numbers worked out by hand or by another road."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from paced_megatron.report.statistics import moved, moved_by_chance, over_seeds


def test_an_interval_over_three_seeds_is_students_t_with_two_degrees():
    found = over_seeds([0.4, 0.5, 0.6])
    half = 4.303 * 0.1 / math.sqrt(3)  # sd 0.1
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert found.n == 3


def test_one_seed_has_a_mean_and_no_interval():
    found = over_seeds([0.4])
    assert (found.mean, found.low, found.high, found.n) == (0.4, None, None, 1)


def test_a_seed_that_is_not_a_number_does_not_vanish_from_the_mean():
    found = over_seeds([0.4, math.nan, 0.5])
    assert math.isnan(found.mean)
    assert found.low is None


def test_moved_compares_pass_rates_and_not_counts():
    # 1 of 2 before and 2 of 4 after is the same rate; 1 of 2 and 3 of 4 is up; 2 of 2 and 3 of 4 is down.
    moves = Counter({((1, 2), (2, 4)): 5, ((1, 2), (3, 4)): 3, ((2, 2), (3, 4)): 2})
    assert moved(moves) == (3, 2, 5)


def test_moved_by_chance_is_the_binomials_tail():
    # 2 attempts, p = 1/2: 0, 1, 2 correct with 1/4, 1/2, 1/4. Problems at the ends cannot move.
    assert moved_by_chance([10, 8, 20], 2) == (pytest.approx(2.0), pytest.approx(2.0))
