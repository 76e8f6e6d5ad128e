"""How sure a paired difference is: its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

ROUNDING = 1e-12  # differences of shares that are equal on paper are so but for this part of themselves
NORMAL_QUANTILE = 1.959964  # the 97.5 % quantile of the normal distribution
# That of Student's t with 1, 2, ... degrees of freedom.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; to three digits, from 1 degree of freedom on.

    Beyond the table by its expansion in 1 / degrees (Abramowitz and Stegun, 26.7.5).
    """
    if degrees <= len(_T):
        return _T[degrees - 1]
    second = (5 * NORMAL_QUANTILE**5 + 16 * NORMAL_QUANTILE**3 + 3 * NORMAL_QUANTILE) / (96 * degrees**2)
    return NORMAL_QUANTILE + (NORMAL_QUANTILE**3 + NORMAL_QUANTILE) / (4 * degrees) + second


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for one value, which has no spread."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of paired differences, mean -+ t s / sqrt(n) with n-1 degrees of freedom.

    None for fewer than two differences, and for differences that are all equal to within rounding: an
    interval of no width would claim certainty.
    """
    spread = deviation(differences)
    if spread is None or spread <= ROUNDING * max(map(abs, differences)):
        return None
    half = t_quantile(len(differences) - 1) * spread / math.sqrt(len(differences))
    middle = mean(differences)
    return middle - half, middle + half
