"""Forward KL on responses, then reverse KL on rollouts, from one command; at TP1 and over two processes."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loop.on_policy_recipe import ATTEMPTS, BATCH, write_on_policy
from loop.recipes import QUICKSTART, ROOT, records, run_paced
from paced_megatron.cli import main
from paced_megatron.config.io import load_config

STAGES = [
    {"divergence": "forward_kl", "text": "responses", "train_iters": 3},
    {"divergence": "reverse_kl", "text": "rollouts", "train_iters": 1},
]
LR = 1e-3


def write_two_stages(folder: Path, **sections) -> Path:
    return write_on_policy(folder, training={"lr": LR}, **sections | {"stages": STAGES})


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.parallel)], ids=["TP1", "TP2"])
def finished(request, tmp_path_factory) -> tuple[Path, str]:
    """The run's folder, and what was said."""
    folder = tmp_path_factory.mktemp("two-stage")
    recipe = write_two_stages(folder, parallel={"tensor_model_parallel_size": request.param})
    if request.param == 1:  # no process need be started
        with redirect_stdout(io.StringIO()) as said:
            assert main(["run", str(recipe)]) == 0
        return folder / "run", said.getvalue()
    code, output, errors = run_paced("run", recipe)
    assert code == 0, output + errors
    return folder / "run", output


def test_each_stage_is_measured_by_the_student_that_it_starts_from(finished):
    run, _ = finished
    for stage, version in ((1, "initial"), (2, "stage-1")):
        attempts = records(run / f"stage-{stage}/attempts.jsonl")
        assert {attempt["weight_version"] for attempt in attempts} == {version}
        assert len(records(run / f"stage-{stage}/pass_rates.jsonl")) * ATTEMPTS == len(attempts)


def test_the_first_stage_trains_on_the_teachers_text_and_the_second_on_its_own(finished):
    run, output = finished
    assert (run / "stage-1/responses.jsonl").exists() and not (run / "stage-1/rollouts").exists()
    assert not (run / "stage-2/responses.jsonl").exists()
    assert "stage 2: no responses of the teacher" in output
    attempts = records(run / "stage-2/rollouts/step-0000001.jsonl")
    assert {attempt["weight_version"] for attempt in attempts} == {"stage-2 step-0"}
    assert len(attempts) == BATCH * ATTEMPTS


def test_the_second_stage_begins_with_a_fresh_optimizer(finished):
    """Adam's first step moves every weight by the learning rate, whatever its gradient's size; a later one
    does not."""
    run, _ = finished
    before, after = (load_file(run / f"stage-{number}/hf/model.safetensors") for number in (1, 2))
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert records(run / "stage-2/metrics.jsonl")[0]["texts"] > 0
    by_lr = ((moved / LR - 1).abs() < 0.02).float().mean()
    assert by_lr > 0.9 * (moved > 0).float().mean() > 0.5


def test_both_stages_have_moved_the_student(finished):
    run, _ = finished
    folders = QUICKSTART / "student", run / "stage-1/hf", run / "stage-2/hf"
    weights = [load_file(folder / "model.safetensors")["model.norm.weight"] for folder in folders]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


@pytest.mark.parallel
def test_over_two_processes_the_first_on_policy_step_is_that_of_one(tmp_path):
    """The weights are the same to the bit, so the attempts are; after them only rounding differs."""
    alone, shared = write_on_policy(tmp_path / "one"), write_on_policy(tmp_path / "two")
    assert main(["run", str(alone), "stages.0.train_iters=1"]) == 0
    code, output, errors = run_paced(
        "run", shared, "stages.0.train_iters=1", "parallel.tensor_model_parallel_size=2"
    )
    assert code == 0, output + errors
    one, two = (recipe.parent / "run/stage-1" for recipe in (alone, shared))
    name = "rollouts/step-0000001.jsonl"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    (step,), (other,) = (records(folder / "metrics.jsonl") for folder in (one, two))
    for key in ("loss", "divergence", "student_entropy", "teacher_entropy"):
        assert other[key] == pytest.approx(step[key], rel=1e-4), key
    assert other["rollout"] == step["rollout"] and step["texts"] == other["texts"] > 0


def test_the_recipe_in_examples_is_these_two_stages():
    config = load_config(ROOT / "examples/two_stage/two_stage.yaml")
    assert [(stage.divergence, stage.text) for stage in config.stages] == [
        ("forward_kl", "responses"),
        ("reverse_kl", "rollouts"),
    ]
