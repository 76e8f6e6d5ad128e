"""`key=value` behind a recipe: what it reaches, how it is read, and which are wrong."""

from __future__ import annotations

import dataclasses

import pytest

from config.written import YAML
from paced_megatron.config import StageConfig, TrainingConfig
from paced_megatron.errors import UserError


def test_an_override_replaces_one_value_and_the_last_one_wins(load) -> None:
    config = load(
        YAML, "training.lr=1e-5", "stages.0.train_iters=20", "training.lr=2e-5", "pacing.kernel=uniform"
    )
    expected = dataclasses.replace(
        load(),
        training=dataclasses.replace(TrainingConfig(), lr=2e-5, global_batch_size=8),
        stages=[StageConfig(train_iters=20)],
        pacing=dataclasses.replace(load().pacing, kernel="uniform"),
    )
    assert config == expected


def test_an_override_may_be_a_whole_section_or_list(load) -> None:
    config = load(
        YAML, "stages=[{train_iters: 4}, {train_iters: 5, divergence: reverse_kl}]", "evaluation={every: 2}"
    )
    assert config.stages == [StageConfig(train_iters=4), StageConfig(train_iters=5, divergence="reverse_kl")]
    assert config.evaluation.every == 2


def test_an_override_reaches_template_arguments_and_column_names(load) -> None:
    config = load(
        YAML, "problems.prompts.chat_template_kwargs.enable_thinking=false", "problems.fields.id=unique_id"
    )
    assert config.problems.prompts.chat_template_kwargs == {"enable_thinking": False}
    assert config.problems.fields == {"id": "unique_id"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("####", "####"),
        ("Answer: # ", "Answer: # "),
        ("yes", "yes"),
        ("42", "42"),
        ("{problem}", "{problem}"),
        ("a=b", "a=b"),
        ('"two\\nlines"', "two\nlines"),
        ("null", None),
        ("", None),
    ],
)
def test_text_in_an_override_needs_no_quotes(load, text: str, value: str | None) -> None:
    assert load(YAML, f"problems.verifier.answer_marker={text}").problems.verifier.answer_marker == value


WRONG_OVERRIDES = {
    "training.lrr=1": "unknown key training.lrr; did you mean training.lr?",
    "rollut.attempts=4": "unknown key rollut; did you mean rollout?",
    "training.global_batch_size=8.5": "training.global_batch_size must be a whole number, not 8.5",
    "teacher={pth: a}": "unknown key teacher.pth; did you mean teacher.path?",
    "rollout.attempts=true": "rollout.attempts must be a whole number, not true",
    "stages.1.train_iters=3": "stages has the entries 0 to 0, and no 1",
    "stages.first.train_iters=3": "stages has the entries 0 to 0, and no first",
    "training.lr.peak=3": "training.lr is a single value ('1e-6') and has no key peak",
    "training.lr": "must be key=value, e.g. training.lr=1e-5",
    "=1": "must be key=value, e.g. training.lr=1e-5",
    "training..lr=1": "must be key=value, e.g. training.lr=1e-5",
    ".lr=1": "must be key=value, e.g. training.lr=1e-5",
    "seed=2026-13-41": "seed must be a whole number, not '2026-13-41'",
}


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_a_wrong_override_is_named(load, override: str) -> None:
    with pytest.raises(UserError) as caught:
        load(YAML, override)
    assert str(caught.value) == f"override {override}: {WRONG_OVERRIDES[override]}"
