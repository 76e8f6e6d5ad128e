"""A teacher in a layout of its own: the student's gradient is still that of transformers in float64.

With PACED_FULL_PARITY=1 all rows.
"""

from __future__ import annotations

import os

import pytest
import torch

from parallel.layouts import DP, ONE, PACKED, PP, SP, TP, VPP, Row
from parallel.parity import Parity, examples_of, relative_error, texts
from parallel.teacher_ranks import cached, slept

pytestmark = pytest.mark.parallel

FULL = os.environ.get("PACED_FULL_PARITY") == "1"
ROWS = [
    Row("teacher TP 2, student PP 2", {PP: 2}, teacher={TP: 2, PP: 1}, quick=True),
    Row("teacher PP 2, student TP 2", {TP: 2}, teacher={TP: 1, PP: 2}),
    Row("teacher PP 2, student TP 2, packed", {TP: 2, **SP}, PACKED, teacher={TP: 1, PP: 2}),
    Row("teacher TP 1, student TP 2", {TP: 2}, ONE, teacher={TP: 1, PP: 1}),
    Row("teacher TP 2, student DP 2", {DP: 2}, ONE, teacher={TP: 2, PP: 1}),
    Row("teacher PP 2, student DP 2", {DP: 2}, ONE, teacher={TP: 1, PP: 2}),
    Row("teacher PP 2, student TP 2, DP 2", {TP: 2, DP: 2}, ONE, teacher={TP: 1, PP: 2}),
    Row("teacher TP 2, PP 2, student DP 4", {DP: 4}, ONE, teacher={TP: 2, PP: 2}),
    Row("teacher TP 4, student PP 2, VPP 2, DP 2", {PP: 2, VPP: 2, DP: 2}, ONE, teacher={TP: 4, PP: 1}),
    Row(
        "tied teacher PP 2, student TP 2, DP 2",
        {TP: 2, DP: 2},
        ONE,
        teacher={TP: 1, PP: 2},
        models="both tied",
        quick=True,
    ),
    Row("tied teacher TP 1, student TP 2", {TP: 2}, teacher={TP: 1, PP: 1}, models="both tied"),
]
SHOWN = [row for row in ROWS if row.quick or FULL]
KLS, DIVERGENCES = (1.0, 0.0066), ("forward_kl", "reverse_kl")


@pytest.fixture(scope="module")
def parity(pool, tmp_path_factory) -> Parity:
    return Parity(pool, tmp_path_factory.mktemp("teacher-parity"))


@pytest.mark.parametrize("row", SHOWN, ids=str)
def test_the_gradient_of_every_parameter_is_that_of_transformers_in_float64(parity, row):
    asked = [(kl, divergence) for kl in KLS for divergence in DIVERGENCES][: None if FULL else 2]
    found = parity.run(row, [(kl, row.case(divergence=divergence)) for kl, divergence in asked])
    for (kl, divergence), step in zip(asked, found, strict=True):
        loss, truth = parity.truth(row.models, kl, divergence)
        assert step.sums.loss == pytest.approx(loss, rel=1e-9)
        assert relative_error(step.gradient, truth) <= 1e-9, (kl, divergence)


@pytest.mark.parametrize("row", SHOWN, ids=str)
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(parity, row):
    student, _ = parity.folders(row.models, 1.0)
    _, usual = parity.truth(row.models, 1.0, "forward_kl")
    found = parity.run_on((student, student), row.world_size, row.case(dtype=torch.float32))
    assert abs(found.sums.loss) <= 1e-6
    for name, gradient in found.gradient.items():
        assert gradient.norm() <= 1e-4 * usual[name].norm(), name


def _crossed(parity: Parity, **changes) -> tuple:
    """Folders, texts and case of a teacher at PP 2 with a student at TP 2."""
    row = next(row for row in ROWS if row.name == "teacher PP 2, student TP 2")
    return parity.folders("untied", 1.0), examples_of(texts()), row.case(**changes)


def test_the_cache_gives_the_same_gradient_bit_for_bit_also_after_a_file_was_damaged(pool, parity, tmp_path):
    for found in pool.run(cached, 2, *_crossed(parity), tmp_path / "teacher", timeout=120):
        assert found == dict.fromkeys(("written", "read", "mended", "read again"), True)
    (tmp_path / "dp").mkdir()
    folders, examples, _ = _crossed(parity)
    case = Row("", {DP: 2}, ONE, teacher={TP: 2, PP: 1}).case(dtype=torch.bfloat16)
    for found in pool.run(cached, 2, folders, examples, case, tmp_path / "dp", timeout=120):
        assert found == dict.fromkeys(("written", "read", "mended", "read again"), True)


def test_a_teacher_that_sleeps_between_its_turns_gives_the_same_gradient_and_is_never_trained(pool, parity):
    for found in pool.run(slept, 2, *_crossed(parity, dtype=torch.bfloat16), timeout=120):
        assert found["same"] == [True, True, True]
        assert found["awake"] == 0
        assert found["said"] == "teacher's head: asleep; wake it first"
        assert found["frozen, bare"] == (True, True, False)
