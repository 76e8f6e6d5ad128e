"""Self-distillation: the student as its own teacher, frozen, averaged or as it is, with and without a context
of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.training.examples import Example
from parallel.layouts import DP, ONE, OVERLAP, PACKED, PP, SP, TP, VPP, Row
from parallel.parity import BATCH_SIZE, STUDENT, relative_error, texts
from parallel.reference_step import reference_step
from parallel.step_ranks import Case, Found, step_gradients
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.parallel

KINDS = ("initial", "ema", "current")
LAYOUTS = [
    Row("one process"),
    Row("TP 2", {TP: 2}),
    Row("PP 2", {PP: 2}),
    Row("TP 2, SP", {TP: 2, **SP}),
    Row("TP 2, SP, packed", {TP: 2, **SP}, PACKED | {"pack_length": 40}),
    Row("PP 2, VPP 2", {PP: 2, VPP: 2}),
    Row("DP 2, overlapped", {DP: 2, **OVERLAP}, ONE),
    Row("recomputed, all of it", training={"recompute_granularity": "full", "recompute_num_layers": 2}),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "student", seed=1, **STUDENT)


def examples(with_context: bool) -> list[Example]:
    """The parity tests' texts; the teacher's prompts are longer, and shorter, than the student's."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for number, (prompt, response, weight) in enumerate(texts()):
        context = torch.randint(0, 260, ((4, 11, 1)[number % 3],), generator=generator).tolist()
        found.append(
            Example(
                f"p{number}",
                tuple(prompt),
                tuple(context if number == 3 else prompt[:1] + context + prompt[1:])
                if with_context
                else tuple(prompt),
                tuple(response),
                weight,
            )
        )
    return found


def run(pool, student: Path, row: Row, works: list[tuple[list[Example], Case]]) -> list[Found]:
    jobs = [(student, student, of, case) for of, case in works]
    found, *_ = pool.run(step_gradients, row.world_size, jobs, timeout=120)
    return found


@pytest.fixture(scope="module")
def truth(student):
    """(loss, gradient) of transformers and divergence/reference.py, in float64, with each model's own
    prompts."""
    loss, gradient, _ = reference_step(
        student,
        student,
        [(one.student_prompt, one.response, one.weight) for one in examples(True)],
        divergence="reverse_kl",
        denominator=BATCH_SIZE,
        teacher_prompts=[one.teacher_prompt for one in examples(True)],
    )
    return loss, gradient


@pytest.mark.parametrize("row", LAYOUTS, ids=str)
def test_a_context_gives_the_gradient_of_transformers_and_none_gives_nothing(pool, student, truth, row):
    float32 = {"dtype": torch.float32, "divergence": "reverse_kl"}
    works = [(examples(True), row.case(kind=kind, divergence="reverse_kl")) for kind in KINDS]
    works += [(examples(False), row.case(kind=kind, **float32)) for kind in KINDS]
    found = run(pool, student, row, works)
    loss, gradient = truth
    assert loss > 0.01
    scale = max(float(value.norm()) for value in gradient.values())
    for with_context in found[: len(KINDS)]:
        assert with_context.sums.loss == pytest.approx(loss, rel=1e-9)
        assert relative_error(with_context.gradient, gradient) <= 1e-9
    for kind, without in zip(KINDS, found[len(KINDS) :], strict=True):
        assert abs(without.sums.loss) <= 1e-6, kind
        assert max(float(value.norm()) for value in without.gradient.values()) <= 1e-5 * scale, kind
