"""A teacher on processes of its own: the student's gradient is still that of transformers in float64.

With PACED_FULL_PARITY=1 all rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from paced_megatron.config import ParallelConfig, TeacherConfig
from paced_megatron.runtime.launch import free_port
from parallel.apart_ranks import gpus_apart, gradients_apart
from parallel.layouts import DP, ONE, PACKED, PP, TP, VPP, ZERO, Row
from parallel.parity import Parity, examples_of, relative_error, texts
from parallel.step_ranks import Found

pytestmark = pytest.mark.parallel

FULL = os.environ.get("PACED_FULL_PARITY") == "1"


@dataclass(frozen=True)
class Apart:
    """A student's row, and the teacher's sizes on its own processes."""

    row: Row
    teacher: dict[str, int]
    quick: bool = False

    def __str__(self) -> str:
        return str(self.row)

    @property
    def config(self) -> TeacherConfig:
        sizes = {TP: 1, PP: 1} | self.teacher
        return TeacherConfig(path="unused", own_ranks=True, **sizes)

    @property
    def world_size(self) -> int:
        case = self.row.case()
        return case.parallel.world_size + self.config.own_processes(case.parallel)


ROWS = [
    Apart(Row("one and one"), {}),
    Apart(Row("student TP 2, teacher TP 1", {TP: 2}, ONE), {}),
    Apart(Row("student PP 2, teacher TP 2", {PP: 2}), {TP: 2}, quick=True),
    Apart(Row("student DP 2, teacher PP 2", {DP: 2, **ZERO}, ONE), {PP: 2}, quick=True),
    Apart(Row("student DP 2, packed, teacher DP 2", {DP: 2}, PACKED), {DP: 2}),
    Apart(Row("student PP 2, VPP 2, teacher DP 2", {PP: 2, VPP: 2}, ONE), {DP: 2}),
    Apart(Row("student one, teacher TP 2, tied", {}, models="both tied"), {TP: 2}),
]
SHOWN = [apart for apart in ROWS if apart.quick or FULL]
KLS, DIVERGENCES = (1.0, 0.0066), ("forward_kl", "reverse_kl")


@pytest.fixture(scope="module")
def parity(pool, tmp_path_factory) -> Parity:
    return Parity(pool, tmp_path_factory.mktemp("apart-parity"))


def run(parity: Parity, apart: Apart, works: list) -> list[Found]:
    """What the student's first rank found; its other ranks found the same, and the teacher's nothing."""
    jobs = [(*folders, examples_of(texts()), case) for folders, case in works]
    found = parity.pool.run(gradients_apart, apart.world_size, free_port(), apart.config, jobs, timeout=120)
    students = apart.row.world_size
    assert found[students:] == [None] * (apart.world_size - students)
    for other in found[1:students]:
        assert [one.sums for one in other] == [one.sums for one in found[0]]
    return found[0]


@pytest.mark.parametrize("apart", SHOWN, ids=str)
def test_the_gradient_of_every_parameter_is_that_of_transformers_in_float64(parity, apart):
    asked = [(kl, divergence) for kl in KLS for divergence in DIVERGENCES][: None if FULL else 2]
    models = apart.row.models
    found = run(
        parity,
        apart,
        [(parity.folders(models, kl), apart.row.case(divergence=divergence)) for kl, divergence in asked],
    )
    for (kl, divergence), step in zip(asked, found, strict=True):
        loss, truth = parity.truth(models, kl, divergence)
        assert step.sums.loss == pytest.approx(loss, rel=1e-9)
        assert relative_error(step.gradient, truth) <= 1e-9, (kl, divergence)


@pytest.mark.parametrize("apart", SHOWN, ids=str)
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(parity, apart):
    student, _ = parity.folders(apart.row.models, 1.0)
    _, usual = parity.truth(apart.row.models, 1.0, "forward_kl")
    (found,) = run(parity, apart, [((student, student), apart.row.case(dtype=torch.float32))])
    assert abs(found.sums.loss) <= 1e-6
    for name, gradient in found.gradient.items():
        assert gradient.norm() <= 1e-4 * usual[name].norm(), name


def test_the_student_s_ranks_are_told_of_the_teacher_s_gpus_behind_their_own(pool):
    """Asked twice, as the arms of an experiment do; the teacher waits for its next call after each."""
    teacher = TeacherConfig(path="unused", own_ranks=True, tensor_model_parallel_size=1)
    found = pool.run(gpus_apart, 3, free_port(), ParallelConfig(data_parallel_size=2), teacher)
    expected = [f"card {rank}" for rank in (0, 1, 2)] * 2
    assert [gpu.name for gpu in found[0]] == [gpu.name for gpu in found[1]] == expected
    assert found[2] is None
