"""Intervals and movements, against numbers worked out by hand or by another road."""

from __future__ import annotations

import math

import pytest

from paced_megatron.report.statistics import moved, moved_by_chance, over_seeds, transitions


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


def test_transitions_count_problems_that_have_both():
    matrix = transitions({"a": 0, "b": 1, "c": 1, "gone": 2}, {"a": 0, "b": 2, "c": 1, "new": 0}, 2, 2)
    assert matrix == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_moved_compares_pass_rates_and_not_counts():
    # 1 of 2 before and 2 of 4 after is the same rate; 1 of 2 and 3 of 4 is up; 2 of 2 and 3 of 4 is down.
    matrix = [[0, 0, 0, 0, 0], [0, 0, 5, 3, 0], [0, 0, 0, 2, 0]]
    assert moved(matrix) == (3, 2, 5)


def test_moved_by_chance_is_the_binomials_tail():
    # 2 attempts, p = 1/2: 0, 1, 2 correct with 1/4, 1/2, 1/4. Problems at the ends cannot move.
    assert moved_by_chance([10, 8, 20], 2) == (pytest.approx(2.0), pytest.approx(2.0))
