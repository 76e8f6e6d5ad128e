"""A NaN or an infinity ends the run, on all ranks alike, with step, problems and the rank it came from."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from paced_megatron.errors import UserError
from paced_megatron.models.gpt import parameters_by_name
from paced_megatron.plan.work import Layout
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.training import step as step_module
from plan.counted import Case, build_trainer, examples
from tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.parallel

CASES = {
    "DP 2": Case(Layout(data_parallel_size=2), "float32"),
    "PP 2": Case(Layout(pipeline_model_parallel_size=2, teacher_pipeline_model_parallel_size=2), "float32"),
}


def step_with_nan_on_rank_1(rank, world_size, folder, case, where: str) -> list[str]:
    """What each of two steps says; the second is spoiled on rank 1."""
    with megatron_on_cpu():
        trainer = build_trainer(rank, world_size, folder, folder, case)
        batch = examples(case)
        trainer.step(batch)
        before = [x.detach().clone() for chunk in trainer.student.chunks for x in chunk.parameters()]
        divergence, optimizer_step = step_module.weighted_divergence, trainer.optimizer.step

        def spoiled_hidden(student_hidden, *args, **kwargs):
            return divergence(student_hidden * float("nan"), *args, **kwargs)

        def spoiled_gradient():
            next(iter(parameters_by_name(trainer.student.chunks).values())).main_grad.view(-1)[0] = torch.inf
            return optimizer_step()

        spoils = [
            mock.patch.object(step_module, "weighted_divergence", spoiled_hidden),
            mock.patch.object(trainer.optimizer, "step", spoiled_gradient),
        ]
        try:
            if rank == 1:
                with spoils[where == "gradient"]:
                    trainer.step(batch)
            else:
                trainer.step(batch)
        except UserError as error:
            after = [x for chunk in trainer.student.chunks for x in chunk.parameters()]
            untouched = all(map(torch.equal, before, after))
            return [str(error), "untouched" if untouched else "spoiled"]
    return ["no error"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "model", seed=1, num_hidden_layers=2)


@pytest.mark.parametrize("layout", CASES)
def test_a_loss_that_is_not_finite_names_step_problems_and_rank_and_touches_no_weight(layout, pool, folder):
    found = pool.run(step_with_nan_on_rank_1, 2, folder, CASES[layout], "loss")
    assert found[0] == found[1]
    line, weights = found[0]
    assert line.startswith("step 2: loss nan, not finite") and weights == "untouched"
    # Of four problems in micro-batches of two, rank 1 of two copies has the odd ones; a stage has all.
    whose = "rank 1: p1, p3;" if layout == "DP 2" else "rank 1: p0, p1, p2, p3;"
    assert f"it began on {whose}" in line and line.endswith("this step's problems: p0, p1, p2, p3")


def test_a_gradient_that_is_not_finite_names_the_rank_and_the_parameter(pool, folder):
    lines = [line for line, _ in pool.run(step_with_nan_on_rank_1, 2, folder, CASES["PP 2"], "gradient")]
    assert lines[0] == lines[1]
    assert (
        lines[0].startswith("step 2: gradient norm ") and "rank 1: " in lines[0] and "rank 0" not in lines[0]
    )
    assert "problems: p0, p1, p2, p3" in lines[0]
