from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest

from paced_megatron.config import PacingConfig
from paced_megatron.errors import UserError
from paced_megatron.pacing import KERNELS, beta, make_kernel, uniform


def test_the_default_kernel_is_p_times_one_minus_p() -> None:
    kernel = make_kernel(PacingConfig())
    assert [kernel(k / 8) for k in range(9)] == [k * (8 - k) / 64 for k in range(9)]


def test_alpha_belongs_to_p_and_beta_to_one_minus_p() -> None:
    kernel = make_kernel(PacingConfig(alpha=2, beta=3))
    assert kernel(0.25) == pytest.approx(0.0625 * 0.421875, rel=1e-15)
    peak = max(range(1, 100), key=lambda percent: kernel(percent / 100))
    assert peak == 40  # alpha / (alpha + beta)


def test_exponent_one_half_is_a_square_root_and_zero_leaves_a_side_alone() -> None:
    assert beta(0.5, 0.5)(0.2) == pytest.approx(math.sqrt(0.16), rel=1e-15)
    assert beta(0, 1)(0.0) == 1.0
    assert beta(0, 0)(0.3) == uniform(0.3) == 1.0


@pytest.mark.parametrize("exponents", [(-1, 1), (math.nan, 1), (math.inf, 1)])
def test_a_negative_or_endless_exponent_is_refused_by_its_key(exponents: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"pacing\.alpha"):
        beta(*exponents)
    with pytest.raises(UserError, match=r"pacing\.beta"):
        beta(*reversed(exponents))


def test_the_configuration_chooses_the_kernel_and_an_unknown_name_is_answered_with_those_there_are() -> None:
    assert make_kernel(PacingConfig(kernel="uniform", alpha=7)) is uniform
    with pytest.raises(UserError, match="'triangle': choose one of beta, beta_fitted, sqrt, gaussian, band"):
        make_kernel(PacingConfig(kernel="triangle"))  # type: ignore[arg-type]
    assert set(KERNELS) == set(get_args(get_type_hints(PacingConfig)["kernel"]))
