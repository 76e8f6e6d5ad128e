"""Kernels: how much a problem counts as a function of the student's pass rate p on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from paced_megatron.errors import UserError

if TYPE_CHECKING:
    from paced_megatron.config import PacingConfig

Kernel = Callable[[float], float]


def beta(alpha: float, beta: float) -> Kernel:
    """p^alpha (1-p)^beta, with its peak at alpha / (alpha + beta) (PACED, arXiv 2603.11178).

    Raises UserError for an exponent that is negative or not finite: such a weight would be largest, without
    bound, where the student never or always succeeds.
    """
    for key, exponent in (("pacing.alpha", alpha), ("pacing.beta", beta)):
        if not (math.isfinite(exponent) and exponent >= 0):
            raise UserError(f"{key} is {exponent}: give 0 or a positive number, 1 is the default")

    def kernel(p: float) -> float:
        return p**alpha * (1 - p) ** beta

    return kernel


def uniform(p: float) -> float:
    """1 for every p: no pacing beyond dropping what is off the frontier."""
    return 1.0


# A row makes the kernel from its section of the configuration.
KERNELS: dict[str, Callable[[PacingConfig], Kernel]] = {
    "beta": lambda config: beta(config.alpha, config.beta),
    "uniform": lambda config: uniform,
}


def make_kernel(config: PacingConfig) -> Kernel:
    """The kernel that the configuration names. Raises UserError for a name that is not in KERNELS."""
    if config.kernel not in KERNELS:
        raise UserError(f"pacing.kernel is {config.kernel!r}: choose one of {', '.join(KERNELS)}")
    return KERNELS[config.kernel](config)
