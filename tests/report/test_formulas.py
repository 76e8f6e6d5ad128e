"""How a picture and the model card write the kernel in force."""

from __future__ import annotations

from paced_megatron.config import PacingConfig
from paced_megatron.pacing import KERNELS
from paced_megatron.report.formulas import FORMULAS
from paced_megatron.report.movements import _label


def test_every_kernel_has_its_formula() -> None:
    assert set(FORMULAS) == set(KERNELS)
    assert _label(PacingConfig()) == "w(p) = p(1 − p)"
    assert _label(PacingConfig(alpha=2.0, permute=True)) == "w(p) = p^2 (1 − p), permuted"
    assert _label(PacingConfig(beta=2.0, permute=True)) == "w(p) = p(1 − p)^2, permuted"
    assert _label(PacingConfig(alpha=0.0, beta=0.0)) == _label(PacingConfig(kernel="uniform")) == "w(p) = 1"
    assert _label(PacingConfig(kernel="sqrt")) == "w(p) = √(p(1 − p))"
    assert _label(PacingConfig(kernel="gaussian")) == "w(p) = exp(−(p − 0.5)² / (2 · 0.2²))"
    assert _label(PacingConfig(kernel="band")) == "w(p) = 1 for 0.2 ≤ p ≤ 0.8"
    assert "peak" in _label(PacingConfig(kernel="beta_fitted"))
