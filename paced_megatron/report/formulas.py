"""The weight kernels as one reads them."""

from __future__ import annotations

from collections.abc import Callable

from paced_megatron.config import PacingConfig


def kernel_formula(pacing: PacingConfig) -> str:
    """The kernel in force as a formula of the pass rate p: "p(1 − p)"."""
    return FORMULAS[pacing.kernel](pacing)


def _beta(pacing: PacingConfig) -> str:
    return f"{_power('p', pacing.alpha)}{_power('(1 − p)', pacing.beta)}".rstrip() or "1"


# A row of pacing's KERNELS -> how pictures and the model card write it.
FORMULAS: dict[str, Callable[[PacingConfig], str]] = {
    "beta": _beta,
    "beta_fitted": lambda pacing: f"{_beta(pacing)}, its peak at the mean pass rate",
    "sqrt": lambda pacing: "√(p(1 − p))",
    "gaussian": lambda pacing: f"exp(−(p − {pacing.gaussian_mean:g})² / (2 · {pacing.gaussian_std:g}²))",
    "band": lambda pacing: f"1 for {pacing.band_low:g} ≤ p ≤ {pacing.band_high:g}",
    "uniform": lambda pacing: "1",
}


def _power(base: str, exponent: float) -> str:
    if exponent == 0:
        return ""
    return base if exponent == 1 else f"{base}^{exponent:g} "
