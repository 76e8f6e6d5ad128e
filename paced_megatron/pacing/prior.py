"""The prior of pass rates, fitted to a stage's counts (empirical Bayes), and the posterior means under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from paced_megatron.pacing.kernels import Beta, Kernel, uniform
from paced_megatron.pacing.pass_rate import PassRate

Floats = NDArray[np.float64]

# What a fit may say. Where all problems agree the likelihood rises without end in one direction.
_SMALLEST, _LARGEST = 0.02, 1000.0
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True)
class Prior:
    """Pass rates are drawn from Beta(a, b), so that k of n leaves Beta(a + k, b + n - k)."""

    a: float
    b: float

    def posterior(self, correct: float, attempts: float) -> tuple[float, float]:
        """(a, b) after `correct` of `attempts`; counts may be fractions (discounted ones)."""
        return self.a + correct, self.b + attempts - correct


def log_likelihood(prior: Prior, rates: Sequence[PassRate]) -> float:
    """Of the counts, beta-binomial, without the binomial coefficients, which no fit depends on."""
    return math.fsum(
        log_beta(*prior.posterior(rate.correct, rate.attempts)) - log_beta(prior.a, prior.b) for rate in rates
    )


def fit_prior(rates: Sequence[PassRate]) -> Prior:
    """The prior under which the counts are likeliest.

    For whole counts B(a+k, b+n-k) / B(a, b) is a product of a+j (j < k), b+j (j < n-k) and 1/(a+b+j) (j < n),
    so that only the numbers of problems with k > j, n-k > j, n > j matter. Minka's fixed point ("Estimating a
    Dirichlet distribution", 2000), whose every step raises the likelihood, over log a and log b, with long
    steps between (SQUAREM, Varadhan and Roland 2008) where they raise it too. a and b stay within 0.02 and
    1000, where counts that all agree (all never solved, or all alike) would carry them off.
    """
    steps = np.arange(max(rate.attempts for rate in rates), dtype=np.float64)
    correct = np.array([rate.correct for rate in rates])
    attempts = np.array([rate.attempts for rate in rates])
    above = [(counts[:, None] > steps).sum(0) for counts in (correct, attempts - correct, attempts)]

    def likelihood(at: Floats) -> float:
        a, b = np.exp(at)
        terms = above[0] * np.log(a + steps) + above[1] * np.log(b + steps) - above[2] * np.log(a + b + steps)
        return float(terms.sum())

    def step(at: Floats) -> Floats:
        a, b = np.exp(at)
        both = (above[2] / (a + b + steps)).sum()
        raised = [x * (hits / (x + steps)).sum() / both for x, hits in ((a, above[0]), (b, above[1]))]
        return np.log(np.clip(raised, _SMALLEST, _LARGEST))

    at = np.zeros(2)
    for _ in range(1_000):
        one = step(at)
        two = step(one)
        first, second = one - at, two - 2 * one + at
        if abs(first).max() < 1e-10:
            break
        length = np.linalg.norm(first) / max(float(np.linalg.norm(second)), 1e-300)
        far = np.clip(at + 2 * length * first + length**2 * second, *np.log([_SMALLEST, _LARGEST]))
        at = step(far) if likelihood(far) > likelihood(two) else two
    a, b = np.exp(at)
    return Prior(float(a), float(b))


def log_beta(a: float, b: float) -> float:
    """log B(a, b), the beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def posterior_mean(kernel: Kernel, a: float, b: float) -> float:
    """E[kernel(p)] for p from Beta(a, b).

    B(a + alpha, b + beta) / B(a, b) for the beta kernel with any exponents; other kernels by quadrature.
    """
    if isinstance(kernel, Beta):
        return math.exp(log_beta(a + kernel.alpha, b + kernel.beta) - log_beta(a, b))
    if kernel is uniform:
        return 1.0
    return quadrature(kernel, a, b)


def quadrature(kernel: Kernel, a: float, b: float) -> float:
    """E[kernel(p)] for p from Beta(a, b), for any bounded kernel, by Gauss-Legendre over x = log(p / (1-p)).

    There the density is p^a (1-p)^b / B(a, b), smooth whatever a and b are (over p its edges are singular
    below 1), and it falls off as e^(a x) and e^(-b x).
    """
    edges = _panels(a, b, getattr(kernel, "breaks", ()))
    half = np.diff(edges) / 2
    x = ((edges[:-1] + half)[:, None] + half[:, None] * _NODES).ravel()
    weights = (half[:, None] * _NODE_WEIGHTS).ravel()
    density = np.exp(-a * np.logaddexp(0, -x) - b * np.logaddexp(0, x) - log_beta(a, b))
    values = np.array([kernel(p) for p in (1 / (1 + np.exp(np.minimum(-x, 700)))).tolist()])
    return float((weights * density * values).sum())


def _panels(a: float, b: float, breaks: Sequence[float]) -> Floats:
    """Edges of panels that hold all but e^-40 of the density, none wider than 1 or its deviation; some lie
    at the kernel's `breaks`: a jump, or the sides of a peak, that no panel may step over."""
    centre, width = math.log(a / b), min(1.0, math.sqrt(1 / a + 1 / b))
    low, high = min(0.0, centre) - 40 / a - 5, max(0.0, centre) + 40 / b + 5
    jumps = sorted(x for x in (math.log(p / (1 - p)) for p in breaks if 0 < p < 1) if low < x < high)
    pieces = [
        np.linspace(start, end, math.ceil((end - start) / width) + 1)
        for start, end in pairwise([low, *jumps, high])
    ]
    return np.unique(np.concatenate(pieces))
