from __future__ import annotations

import numpy as np
import pytest

from paced_megatron.pacing import drawn_by_weight, easy_to_hard
from paced_megatron.pacing.weights import effective_sample_size

WEIGHTS = [0.2, 2.0, 0.5, 1.3]


def test_problems_are_drawn_in_proportion_to_their_weights_with_replacement() -> None:
    draws = drawn_by_weight(WEIGHTS, 200_000, iteration=0, seed=7)
    shares = np.bincount(draws, minlength=4) / len(draws)
    assert shares == pytest.approx(np.array(WEIGHTS) / 4, abs=0.004)  # 4 standard errors


def test_a_step_draws_the_same_problems_whenever_it_is_asked_and_another_step_or_seed_others() -> None:
    one = drawn_by_weight(WEIGHTS, 32, iteration=3, seed=7)
    assert drawn_by_weight(WEIGHTS, 32, iteration=3, seed=7) == one
    assert drawn_by_weight(WEIGHTS, 32, iteration=4, seed=7) != one
    assert drawn_by_weight(WEIGHTS, 32, iteration=3, seed=8) != one


def test_a_problem_of_weight_0_is_never_drawn() -> None:
    assert set(drawn_by_weight([0.0, 1.0, 0.0, 2.0, 0.0], 5000, iteration=0, seed=1)) == {1, 3}


def test_15_sampling_and_weighting_agree_in_expectation_and_differ_in_variance_by_n_over_ess() -> None:
    """METHOD.md 6.15. Per text: weighting draws a problem evenly and takes w g, sampling draws in proportion
    to w (mean 1) and takes g. With gradients of one size the variances about the mean stand as
    E[w^2] / E[w]^2 = N / ESS."""
    rng = np.random.default_rng(15)
    p = rng.beta(0.3, 0.3, 400)
    k = rng.binomial(8, p)
    weights = (k * (8 - k) / 64)[(k > 0) & (k < 8)]
    weights = weights / weights.mean()
    gradients = rng.standard_normal((len(weights), 50))  # mean about 0: what varies is noise
    expected = (weights[:, None] * gradients).mean(0)
    texts = 100_000
    sampled = np.array(drawn_by_weight(weights.tolist(), texts, iteration=0, seed=15))
    even = rng.integers(0, len(weights), texts)
    by_sampling, by_weighting = gradients[sampled], weights[even, None] * gradients[even]
    standard_error = np.sqrt(by_weighting.var(0) / texts)
    assert (abs(by_sampling.mean(0) - expected) < 5 * standard_error).all()
    assert (abs(by_weighting.mean(0) - expected) < 5 * standard_error).all()
    ratio = by_weighting.var(0).sum() / by_sampling.var(0).sum()
    assert ratio == pytest.approx(len(weights) / effective_sample_size(weights.tolist()), rel=0.05)


def test_the_easiest_come_first_and_equal_ones_keep_the_order_they_had() -> None:
    rates = [0.25, 0.75, 0.5, 0.75]
    assert easy_to_hard([2, 0, 3, 1, 1, 2, 3, 0], rates) == [3, 1, 1, 3, 2, 2, 0, 0]
