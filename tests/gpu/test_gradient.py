"""The gradient of every parameter on the GPU, against transformers and the reference divergence in float64 on
the CPU; and that a teacher which is the student teaches nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.training.examples import Example
from parallel.reference_step import reference_step
from parallel.step_ranks import Case, Found, found_on

pytestmark = pytest.mark.gpu

BATCH_SIZE = 8  # more than there are texts: the denominator is the configured number
Text = tuple[list[int], list[int], float]


def _texts() -> list[Text]:
    """Prompts, responses and weights, all of different lengths; one response is a single token, one weight
    0."""
    generator = torch.Generator().manual_seed(13)
    rows = [(5, 7, 1.3), (9, 3, 0.4), (2, 1, 2.1), (7, 11, 0.0), (4, 38, 0.7), (61, 40, 1.9)]
    return [
        (
            torch.randint(0, 260, (prompt,), generator=generator).tolist(),
            torch.randint(0, 260, (response,), generator=generator).tolist(),
            weight,
        )
        for prompt, response, weight in rows
    ]


def _examples(texts: Sequence[Text]) -> list[Example]:
    return [
        Example(f"p{number}", tuple(prompt), tuple(prompt), tuple(response), weight)
        for number, (prompt, response, weight) in enumerate(texts)
    ]


def _errors(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """By parameter, relative to its gradient's norm."""
    assert found.keys() == truth.keys()
    return {name: float((found[name].double() - true).norm() / true.norm()) for name, true in truth.items()}


@pytest.fixture
def step(world, folder) -> Callable[..., Found]:
    def of(teacher: str, dtype: torch.dtype, **settings) -> Found:
        training = {"micro_batch_size": 2, "global_batch_size": BATCH_SIZE} | settings.pop("training", {})
        case = Case(ParallelConfig(), TrainingConfig(**training), dtype=dtype, **settings)
        folders = folder("student", dtype), folder(teacher, dtype)
        place = place_teacher(world.groups)
        return found_on(world.rank, world.groups, place, *folders, _examples(_texts()), case)

    return of


# A gradient in bf16 has been rounded some dozen times: on a CPU no parameter's was further than 4.9 % from
# the one in float64, of the same (rounded) weights.
@pytest.mark.parametrize("dtype, rel", [(torch.float32, 1e-4), (torch.bfloat16, 0.08)])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_every_parameters_gradient_is_that_of_transformers_in_float64(step, folder, divergence, dtype, rel):
    parameter = 0.3 if divergence == "jsd" else None
    folders = folder("student", dtype), folder("teacher", dtype)
    settings = {} if parameter is None else {"parameter": parameter}
    loss, truth, _ = reference_step(
        *folders, _texts(), divergence=divergence, denominator=BATCH_SIZE, **settings
    )
    found = step("teacher", dtype, divergence=divergence, parameter=parameter)
    assert found.gradient is not None
    assert found.sums.loss == pytest.approx(loss, rel=rel)
    assert found.sums.tokens == sum(len(response) for _, response, weight in _texts())
    errors = _errors(found.gradient, truth)
    assert max(errors.values()) <= rel, errors


def test_texts_packed_into_one_row_give_the_gradient_of_texts_in_rows_of_their_own(step):
    packing = {"micro_batch_size": 1, "pack_length": 120}
    (apart, packed) = (step("teacher", torch.float32, training=more) for more in ({}, packing))
    assert packed.sums.loss == pytest.approx(apart.sums.loss, rel=1e-5)
    errors = _errors(packed.gradient, {name: one.double() for name, one in apart.gradient.items()})
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_what_is_computed_again_gives_the_gradient_of_what_was_kept(step, recompute):
    again = {"recompute_granularity": recompute}
    kept, computed = (step("teacher", torch.bfloat16, training=more) for more in ({}, again))
    errors = _errors(computed.gradient, {name: one.double() for name, one in kept.gradient.items()})
    assert max(errors.values()) <= 1e-3, errors  # the sums of an embedding's rows come in any order


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_a_teacher_that_is_the_student_gives_loss_0_and_gradient_0(step, divergence, dtype):
    itself, another = (step(teacher, dtype, divergence=divergence) for teacher in ("student", "teacher"))
    assert another.sums.loss > 0.1 and abs(itself.sums.loss) <= 1e-6 * another.sums.loss
    for name, gradient in itself.gradient.items():
        assert gradient.norm() <= 1e-5 * another.gradient[name].norm(), name
