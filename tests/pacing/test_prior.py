from __future__ import annotations

import math

import numpy as np
import pytest

from paced_megatron.pacing import PassRate, Prior, beta, fit_prior, uniform
from paced_megatron.pacing.kernels import Band, Beta, Gaussian
from paced_megatron.pacing.prior import log_likelihood, posterior_mean, quadrature


def drawn(prior: Prior, attempts: int, problems: int, seed: int) -> list[PassRate]:
    rng = np.random.default_rng(seed)
    correct = rng.binomial(attempts, rng.beta(prior.a, prior.b, problems))
    return [PassRate(str(i), int(k), attempts) for i, k in enumerate(correct)]


@pytest.mark.parametrize("prior", [Prior(1, 1), Prior(0.3, 0.6), Prior(4, 2)])
def test_the_fit_finds_the_prior_that_the_counts_were_drawn_from(prior: Prior) -> None:
    found = fit_prior(drawn(prior, 8, 20_000, seed=3))
    assert found.a == pytest.approx(prior.a, rel=0.06)
    assert found.b == pytest.approx(prior.b, rel=0.06)


def test_no_prior_near_the_fitted_one_makes_the_counts_likelier() -> None:
    rates = drawn(Prior(0.4, 0.9), 8, 100, seed=4) + drawn(Prior(0.4, 0.9), 20, 50, seed=5)
    best = fit_prior(rates)
    peak = log_likelihood(best, rates)
    for a, b in ((1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98), (1.02, 1.02), (0.98, 1.02), (3, 3)):
        assert log_likelihood(Prior(a * best.a, b * best.b), rates) < peak


def test_the_likelihood_is_that_of_the_counts_worked_out_by_hand() -> None:
    # Under Beta(1, 1) every k of n is equally likely: 1 / ((n + 1) C(n, k)).
    rates = [PassRate("a", 2, 5), PassRate("b", 0, 3)]
    assert log_likelihood(Prior(1, 1), rates) == pytest.approx(-math.log(6 * 10) - math.log(4), rel=1e-12)


@pytest.mark.parametrize("correct", [0, 4, 8])
def test_counts_that_all_agree_leave_the_prior_finite(correct: int) -> None:
    prior = fit_prior([PassRate(str(i), correct, 8) for i in range(5)])
    assert 0.02 <= prior.a <= 1000 and 0.02 <= prior.b <= 1000
    mean = prior.a / (prior.a + prior.b)
    assert mean == pytest.approx(correct / 8, abs=0.02)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.05, 7.3), (0.3, 0.3), (40.5, 3.2), (1000.0, 900.0)])
@pytest.mark.parametrize("exponents", [(1, 1), (2, 1), (0.5, 1.5)])
def test_the_quadrature_is_the_closed_form_of_the_beta_kernel(
    a: float, b: float, exponents: tuple[float, float]
) -> None:
    kernel = beta(*exponents)
    assert quadrature(kernel, a, b) == pytest.approx(posterior_mean(kernel, a, b), rel=1e-7)


def test_the_posterior_mean_of_a_band_is_the_probability_of_lying_in_it() -> None:
    assert posterior_mean(Band(0.2, 0.8), 1, 1) == pytest.approx(0.6, rel=1e-12)
    # Beta(2, 1) has the distribution function p^2, Beta(1, 3) has 1 - (1-p)^3.
    assert posterior_mean(Band(0.3, 0.5), 2, 1) == pytest.approx(0.25 - 0.09, rel=1e-12)
    assert posterior_mean(Band(0.0, 0.5), 1, 3) == pytest.approx(1 - 0.125, rel=1e-12)
    assert posterior_mean(Band(0.0, 1.0), 0.1, 0.2) == pytest.approx(1, rel=1e-12)


def test_the_posterior_mean_of_a_gaussian_kernel_is_the_error_function_for_a_uniform_posterior() -> None:
    mean, std = 0.4, 0.2
    area = std * math.sqrt(2 * math.pi) / 2
    by_hand = area * (math.erf((1 - mean) / std / math.sqrt(2)) + math.erf(mean / std / math.sqrt(2)))
    assert posterior_mean(Gaussian(mean, std), 1, 1) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("std", [0.05, 0.01, 0.001, 1e-6])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 3.0), (4.0, 4.0)])
def test_the_posterior_mean_of_a_narrow_gaussian_kernel_does_not_miss_its_peak(
    a: float, b: float, std: float
) -> None:
    # In z = (p - mean) / std the density is a polynomial of degree 6 at most, for which these nodes are
    # exact; what lies beyond 0 and 1 is less than 1e-20 of it.
    mean = 0.5
    z, weights = np.polynomial.hermite_e.hermegauss(8)
    p = mean + std * z
    area = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    by_hand = std * float((weights * p ** (a - 1) * (1 - p) ** (b - 1)).sum()) / area
    assert posterior_mean(Gaussian(mean, std), a, b) == pytest.approx(by_hand, rel=1e-9)


def test_the_posterior_mean_of_one_is_one() -> None:
    assert posterior_mean(uniform, 0.3, 7) == 1.0
    assert posterior_mean(Beta(0.0, 0.0), 0.3, 7) == 1.0
    assert quadrature(uniform, 0.3, 7) == pytest.approx(1.0, rel=1e-12)
