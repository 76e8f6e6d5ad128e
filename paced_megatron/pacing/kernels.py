"""Kernels: how much a problem counts as a function of the student's pass rate p on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paced_megatron.errors import UserError

if TYPE_CHECKING:
    from paced_megatron.config import PacingConfig

Kernel = Callable[[float], float]


@dataclass(frozen=True)
class Beta:
    """p^alpha (1-p)^beta; a class, so that estimators find its exponents (they have closed forms for it)."""

    alpha: float
    beta: float

    def __call__(self, p: float) -> float:
        return p**self.alpha * (1 - p) ** self.beta


@dataclass(frozen=True)
class Gaussian:
    """exp(-(p - mean)^2 / (2 std^2)), after FG-ExPO (arXiv 2605.11403), which has its mean at 1/2."""

    mean: float
    std: float

    def __call__(self, p: float) -> float:
        return math.exp(-0.5 * ((p - self.mean) / self.std) ** 2)

    @property
    def breaks(self) -> tuple[float, ...]:
        """A standard deviation apart, as far as it is above e^-32: a quadrature with wider panels may step
        over a narrow peak."""
        return tuple(self.mean + at * self.std for at in range(-8, 9))


@dataclass(frozen=True)
class Band:
    """1 for low <= p <= high, else 0: with the plug-in estimator a hard filter."""

    low: float
    high: float

    def __call__(self, p: float) -> float:
        return float(self.low <= p <= self.high)

    @property
    def breaks(self) -> tuple[float, float]:
        """Where it jumps: a quadrature may not step over these."""
        return self.low, self.high


def beta(alpha: float, beta: float) -> Beta:
    """p^alpha (1-p)^beta, with its peak at alpha / (alpha + beta) (PACED, arXiv 2603.11178).

    Raises UserError for an exponent that is negative or not finite: such a weight would be largest, without
    bound, where the student never or always succeeds.
    """
    for key, exponent in (("pacing.alpha", alpha), ("pacing.beta", beta)):
        if not (math.isfinite(exponent) and exponent >= 0):
            raise UserError(f"{key} is {exponent}: give 0 or a positive number, 1 is the default")
    return Beta(float(alpha), float(beta))


def fitted_beta(alpha: float, beta: float, values: Sequence[float]) -> Beta:
    """The beta kernel with its peak at the mean of `values`, alpha + beta as given.

    `values` are the pass rates of a stage's problems on the frontier; of none, the exponents stay. Ours: the
    paper says that alpha != beta shifts the peak, and not to where.
    """
    if not values:
        return Beta(float(alpha), float(beta))
    peak = math.fsum(values) / len(values)
    return Beta((alpha + beta) * peak, (alpha + beta) * (1 - peak))


def uniform(p: float) -> float:
    """1 for every p: no pacing beyond dropping what is off the frontier."""
    return 1.0


# A row makes the kernel from its section of the configuration and the pass rates on the stage's frontier.
KERNELS: dict[str, Callable[[PacingConfig, Sequence[float]], Kernel]] = {
    "beta": lambda config, _: beta(config.alpha, config.beta),
    "beta_fitted": lambda config, values: fitted_beta(config.alpha, config.beta, values),
    "sqrt": lambda config, _: Beta(0.5, 0.5),  # SC-SDPO's, arXiv 2605.27765
    "gaussian": lambda config, _: Gaussian(config.gaussian_mean, config.gaussian_std),
    "band": lambda config, _: Band(config.band_low, config.band_high),
    "uniform": lambda config, _: uniform,
}


def make_kernel(config: PacingConfig, frontier: Sequence[float] = ()) -> Kernel:
    """The kernel that the configuration names.

    Args:
        frontier: k/K of the stage's problems on the frontier, for the kernel that is fitted to them.

    Raises UserError for a name that is not in KERNELS.
    """
    if config.kernel not in KERNELS:
        raise UserError(f"pacing.kernel is {config.kernel!r}: choose one of {', '.join(KERNELS)}")
    return KERNELS[config.kernel](config, frontier)
