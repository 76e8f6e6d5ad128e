"""The parity table: at every layout the gradient of every parameter is that of transformers in float64.

With PACED_FULL_PARITY=1 all rows, and their errors in the file that PACED_PARITY_CSV names.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

from parallel.layouts import ROWS, Row
from parallel.parity import Parity, relative_error

pytestmark = pytest.mark.parallel

FULL = os.environ.get("PACED_FULL_PARITY") == "1"
SHOWN = [row for row in ROWS if row.quick or FULL]
KLS, DIVERGENCES = (1.0, 0.0066), ("forward_kl", "reverse_kl")


@pytest.fixture(scope="module")
def parity(pool, tmp_path_factory) -> Parity:
    return Parity(pool, tmp_path_factory.mktemp("parity"))


def _note(row: Row, kl: float, divergence: str, dtype: str, error: float) -> None:
    if name := os.environ.get("PACED_PARITY_CSV"):
        new = not Path(name).exists()
        with open(name, "a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["layout", "models", "processes", "kl", "divergence", "dtype", "worst_error"])
            writer.writerow([row.name, row.models, row.world_size, kl, divergence, dtype, f"{error:.2e}"])


@pytest.mark.parametrize("row", SHOWN, ids=str)
def test_the_gradient_of_every_parameter_is_that_of_transformers_in_float64(parity, row):
    asked = [(kl, divergence) for kl in KLS for divergence in DIVERGENCES]
    found = parity.run(row, [(kl, row.case(divergence=divergence)) for kl, divergence in asked])
    for (kl, divergence), step in zip(asked, found, strict=True):
        loss, truth = parity.truth(row.models, kl, divergence)
        error = relative_error(step.gradient, truth)
        _note(row, kl, divergence, "float64", error)
        assert step.sums.loss == pytest.approx(loss, rel=1e-9)
        assert error <= 1e-9, (kl, divergence)


@pytest.mark.parametrize("row", SHOWN, ids=str)
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(parity, row):
    student, _ = parity.folders(row.models, 1.0)
    _, usual = parity.truth(row.models, 1.0, "forward_kl")
    for divergence in DIVERGENCES:
        case = row.case(divergence=divergence, dtype=torch.float32)
        found = parity.run_on((student, student), row.world_size, case)
        assert abs(found.sums.loss) <= 1e-6
        for name, gradient in found.gradient.items():
            assert gradient.norm() <= 1e-4 * usual[name].norm(), (divergence, name)


STEPPED = [row for row in ROWS if FULL or row.name in ("DP 2, overlapped", "TP 2, SP, PP 2, tied")]


@pytest.mark.parametrize("row", STEPPED, ids=str)
def test_ten_plain_steps_end_at_the_weights_and_gradient_of_one_process_and_begin_with_its_norm(parity, row):
    changes = {"dtype": torch.float32, "plain_steps": 10}
    (found,), alone = parity.run(row, [(1.0, row.case(**changes))]), parity.alone(row.models, **changes)
    assert relative_error(found.weights, alone.weights) <= 1e-5
    assert relative_error(found.gradient, alone.gradient) <= 1e-3
    _, before = parity.truth(row.models, 1.0, "forward_kl")
    assert relative_error(alone.gradient, before) >= 0.1  # the steps do lead somewhere
    whole = sum(float(gradient.square().sum()) for gradient in before.values()) ** 0.5
    assert found.grad_norm == pytest.approx(whole, rel=1e-5)  # clipping goes by it


# The bars: what rounding leaves, with room for a factor of three.
ROUNDED = [
    (dtype, bar, row)
    for dtype, bar in ((torch.float32, 1e-5), (torch.bfloat16, 0.15))
    for row in ROWS
    if row.name
    in (
        ("TP 2, SP, PP 2, tied",)
        if not FULL
        else ("packed", "TP 4, SP", "PP 2", "PP 2, DP 2, overlapped, tied", "TP 2, SP, PP 2, tied")
    )
]


@pytest.mark.parametrize(("dtype", "bar", "row"), ROUNDED, ids=str)
def test_in_lower_precision_the_gradient_is_as_near_as_its_rounding_allows(parity, dtype, bar, row):
    (found,) = parity.run(row, [(1.0, row.case(dtype=dtype))])
    _, truth = parity.truth(row.models, 1.0, "forward_kl")
    error = relative_error(found.gradient, truth)
    _note(row, 1.0, "forward_kl", str(dtype).removeprefix("torch."), error)
    assert found.gradient["model.norm.weight"].dtype == torch.float32  # the main gradient's
    assert error <= bar
