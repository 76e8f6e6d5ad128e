"""Self-distillation: the student as its own teacher, frozen, averaged or as it is, with and without a context
of its own.

With PACED_FULL_PARITY=1 at all layouts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.training.examples import Example
from parallel.layouts import DP, ONE, OVERLAP, PACKED, PP, SP, TP, VPP, Row
from parallel.parity import BATCH_SIZE, STUDENT, relative_error, texts
from parallel.reference_step import reference_step
from parallel.self_ranks import Followed, follow
from parallel.step_ranks import Case, Found, step_gradients
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.parallel

FULL = os.environ.get("PACED_FULL_PARITY") == "1"
KINDS = ("initial", "ema", "current")
LAYOUTS = [
    Row("one process", quick=True),
    Row("TP 2", {TP: 2}),
    Row("PP 2", {PP: 2}, quick=True),
    Row("TP 2, SP", {TP: 2, **SP}),
    Row("TP 2, SP, packed", {TP: 2, **SP}, PACKED | {"pack_length": 40}, quick=True),
    Row("PP 2, VPP 2", {PP: 2, VPP: 2}),
    Row("PP 2, VPP 2, packed, overlapped", {PP: 2, VPP: 2, DP: 2, **OVERLAP}, PACKED | {"pack_length": 40}),
    Row("DP 2, overlapped", {DP: 2, **OVERLAP}, ONE, quick=True),
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


@pytest.mark.parametrize("row", [row for row in LAYOUTS if FULL or row.quick], ids=str)
def test_14_a_context_gives_the_gradient_of_transformers_and_none_gives_nothing(pool, student, truth, row):
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


def followed(
    pool, student: Path, row: Row, batches: list[list[Example]], checkpoints: Path | None = None, **stage
) -> Followed:
    dtype = stage.pop("params_dtype", "float32")
    training = TrainingConfig(
        **{"micro_batch_size": 2, "global_batch_size": BATCH_SIZE, "lr": 0.01, "params_dtype": dtype}
        | row.training
    )
    case = Case(ParallelConfig(**row.parallel), training)
    config = StageConfig(train_iters=len(batches) + 1, divergence="reverse_kl", **stage)
    found, *_ = pool.run(follow, row.world_size, student, batches, config, case, checkpoints, timeout=120)
    return found


@pytest.mark.parametrize(
    ("row", "dtype", "tolerance"),
    [
        (Row("one process"), "bfloat16", 1e-6),
        (Row("TP 2", {TP: 2}), "float32", 1e-6),
        (Row("DP 2, overlapped", {DP: 2, **OVERLAP}, ONE), "float32", 1e-6),
    ],
    ids=str,
)
def test_the_average_after_three_steps_is_the_closed_formula_s(pool, student, row, dtype, tolerance):
    decay, batches = 0.7, [examples(True)] * 3
    found = followed(pool, student, row, batches, teacher="ema", ema_decay=decay, params_dtype=dtype)
    first, *after = found.student
    assert found.models["teacher"] == {"torch.float32"} and f"torch.{dtype}" in found.models["student"]
    for name, average in found.teacher[-1].items():
        assert (after[-1][name] - first[name]).double().norm() > 1e-3  # it has moved
        formula = decay**3 * first[name].double()
        for steps_ago, weights in enumerate(reversed(after)):
            formula += (1 - decay) * decay**steps_ago * weights[name].double()
        assert (average.double() - formula).norm() <= tolerance * formula.norm(), name


def test_a_current_teacher_has_the_student_s_weights_of_every_step_and_an_initial_one_has_not(pool, student):
    batches = [examples(False), examples(True)] * 3
    row = Row("TP 2, SP", {TP: 2, **SP})
    current = followed(pool, student, row, batches, teacher="current")
    initial = followed(pool, student, row, batches, teacher="initial")
    assert current.models.keys() == initial.models.keys() == {"student"}
    assert current.losses[::2] == pytest.approx([0.0] * 3, abs=1e-6)
    assert min(current.losses[1::2]) > 0.001
    assert initial.losses[0] == pytest.approx(0.0, abs=1e-6)
    assert min(initial.losses[2::2]) > 0.001


def test_an_average_goes_on_from_a_checkpoint_to_the_same_bits(pool, student, tmp_path):
    batches, row = [examples(True)] * 3, Row("TP 2", {TP: 2})
    keys = {"teacher": "ema", "ema_decay": 0.7}
    whole = followed(pool, student, row, batches, **keys)
    resumed = followed(pool, student, row, batches, tmp_path / "checkpoints", **keys)
    assert resumed.losses == whole.losses
    for name, average in whole.teacher[-1].items():
        assert torch.equal(resumed.teacher[-1][name], average), name
