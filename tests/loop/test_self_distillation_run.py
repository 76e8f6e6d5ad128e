"""A self-distillation run from one command, and mistakes in it that are told before anything is sampled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from loop.on_policy_recipe import SOMETIMES, write_on_policy
from loop.recipes import records, run_paced
from paced_megatron.cli import main
from paced_megatron.config.io import load_config
from paced_megatron.inputs import read_inputs

STAGE = {"teacher": "ema", "ema_decay": 0.5, "teacher_context": "{solution} {problem}", "train_iters": 2}


def recipe(folder: Path, **stage: object) -> Path:
    """An on-policy recipe without any other model."""
    path = write_on_policy(folder, SOMETIMES, stage=STAGE | stage)
    document = yaml.safe_load(path.read_text())
    del document["teacher"]
    path.write_text(yaml.safe_dump(document))
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that the recipe is refused with, before the run has a folder."""
    assert main(["run", str(path)]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()  # transformers may warn of a long text before
    assert not (path.parent / "run").exists()
    return line


def test_a_run_without_any_other_model_distils_the_student_from_its_average(tmp_path):
    code, _, errors = run_paced("run", recipe(tmp_path), timeout=500)
    assert code == 0, errors
    stage = tmp_path / "run" / "stage-1"
    steps = records(stage / "metrics.jsonl")
    assert len(steps) == 2
    assert steps[0]["divergence"] > 0.01  # the average is the student still: all of it comes from the context
    assert (stage / "hf" / "model.safetensors").exists() and not (stage / "responses.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "model"}, ["stages.0.teacher is model", "set teacher.path"]),
        ({"text": "responses"}, ["stages.0.text is responses", "teacher.path"]),
        ({"teacher_context": "{answer}"}, ["stages.0.teacher_context has no {problem}"]),
        (
            {"teacher_context": "{problem}" + " {solution}" * 9},
            ["teacher's prompt", "max_position_embeddings"],
        ),
        (
            {"teacher_context": "{attempt} {attempt} {attempt} {problem}"},
            ["teacher's prompt (stages.0.teacher_context)", "max_position_embeddings"],
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_sampled(tmp_path, capsys, change, words):
    line = refused(recipe(tmp_path, **change), capsys)
    assert all(word in line for word in words), line


def test_problems_without_a_solution_are_named_before_anything_is_sampled(tmp_path, capsys):
    path = recipe(tmp_path)
    problems = records(tmp_path / "train.jsonl")
    for problem in problems[1:3]:
        del problem["solution"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    names = ", ".join(problem["id"] for problem in problems[1:3])
    said = f"stages.0.teacher_context: {{solution}} needs a solution, and 2 of 6 problems have none ({names})"
    assert said in refused(path, capsys)


def test_an_initial_teacher_is_the_student_of_the_run_s_beginning_in_every_stage(tmp_path):
    path = write_on_policy(tmp_path, SOMETIMES)
    document = yaml.safe_load(path.read_text())
    own = {"text": "rollouts", "teacher": "initial", "train_iters": 1, "teacher_context": "none"}
    document["stages"] = [{"train_iters": 1}, own, own]
    path.write_text(yaml.safe_dump(document))
    config = load_config(path)
    inputs = read_inputs(config)
    assert [inputs.teacher_of(stage)[1].name for stage in config.stages] == ["teacher", "student", "student"]
    assert [inputs.teacher_of(stage)[0] is inputs.student for stage in config.stages] == [False, True, True]
