"""The keys about who teaches a stage, and what this teacher sees: which go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from paced_megatron.config import Config
from paced_megatron.config.io import config_from_dict
from paced_megatron.errors import UserError

TP, PP = "tensor_model_parallel_size", "pipeline_model_parallel_size"
OTHER = {"teacher": {"path": "teacher"}}
OWN = {"text": "rollouts", "divergence": "reverse_kl"}


def config_of(*stages: dict[str, object], **sections: object) -> Config:
    data = {
        "run_dir": "runs/a",
        "problems": {"train": "train.jsonl"},
        "student": {"path": "student"},
        "stages": [{"train_iters": 10} | stage for stage in stages],
    }
    return config_from_dict(data | sections, "run.yaml", Path("/recipe"))


@pytest.mark.parametrize("kind", ["initial", "ema", "current"])
def test_self_distillation_needs_no_section_about_a_teacher(kind: str) -> None:
    config = config_of(OWN | {"teacher": kind})
    assert config.teacher.path is None and config.stages[0].teacher == kind


@pytest.mark.parametrize(
    ("stages", "sections"),
    [
        ([{}, OWN | {"teacher": "initial"}], OTHER),
        ([{"teacher": "initial"}], OTHER),  # the text is the other model's
        ([OWN | {"teacher": "ema", "ema_decay": 0.9}], {}),
        ([OWN | {"teacher": "initial"}], {"teacher": {TP: 1, PP: 1}, "parallel": {TP: 2}}),
        ([OWN | {"teacher": "current"}], {"teacher": {TP: 2}, "parallel": {TP: 2}}),
        ([{}, OWN | {"teacher": "ema"}], {"teacher": {"path": "teacher", "cache": True}}),
        ([OWN | {"teacher": "ema", "teacher_context": r"{problem} \boxed{} {attempt} {feedback}"}], {}),
        ([{"teacher_context": "solution"}], OTHER),  # a larger teacher may see more too
    ],
)
def test_what_goes_together_is_taken(stages, sections) -> None:
    config_of(*stages, **sections)


@pytest.mark.parametrize(
    ("stage", "sections", "said"),
    [
        ({}, {}, "stages.1.teacher is model, and there is none: set teacher.path, or, for self-distillation"),
        (OWN, {}, "stages.1.teacher is model, and there is none"),
        ({"teacher": "ema"}, {}, "stages.1.text is responses, which teacher.path would give"),
        (
            {"ema_decay": 0.5},
            OTHER,
            "stages.1.ema_decay=0.5 is for teacher: ema, and stages.1.teacher is model",
        ),
        (OWN | {"teacher": "ema", "ema_decay": 1}, {}, "ema_decay must be at least 0 and below 1"),
        (OWN | {"teacher": "me"}, {}, "stages.1.teacher must be model or initial or ema or current"),
        (
            OWN | {"teacher": "ema"},
            {"teacher": {TP: 2}, "parallel": {"data_parallel_size": 2}},
            f"teacher.{TP}=2, but stages.1.teacher=ema has the student's layout (parallel.{TP}=1)",
        ),
        (
            OWN | {"teacher": "current"},
            {"teacher": {PP: 1}, "parallel": {PP: 2}},
            f"teacher.{PP}=1, but stages.1.teacher=current has the student's layout",
        ),
        (
            {"teacher": "ema"},
            {"teacher": {"path": "teacher", "cache": True}},
            "teacher.cache=true, but stages.1.teacher=ema changes with every step",
        ),
        (
            OWN | {"teacher": "ema", "teacher_context": "{problem} {sollution}"},
            {},
            "stages.1.teacher_context has {sollution}, which is no slot; did you mean {solution}?",
        ),
        (
            OWN | {"teacher": "ema", "teacher_context": "answers"},
            {},
            "stages.1.teacher_context has no {problem}, so that the teacher would not know what is asked",
        ),
        (
            {"teacher_context": "{problem} {feedback}"},
            OTHER,
            "stages.1.teacher_context has {feedback}, which only the student's own rollouts can fill",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(stage, sections, said: str) -> None:
    with pytest.raises(UserError) as caught:
        config_of(OWN | {"teacher": "initial"}, stage, **sections)
    message = str(caught.value)
    assert said in message and "\n" not in message, message
