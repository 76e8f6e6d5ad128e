"""Rules about a stage's text; each complaint names the key and a remedy. No seed: nothing here is drawn."""

from __future__ import annotations

import pytest

from loop.on_policy_recipe import write_on_policy
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError


def complaint(folder, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(write_on_policy(folder), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "override", ["stages.0.rollout_every=2", "stages.0.train_on=one", "stages.0.leave_one_out=true"]
)
def test_a_key_about_rollouts_is_refused_on_stored_text(tmp_path, override):
    said = complaint(tmp_path, "stages.0.text=responses", override)
    assert override.split("=")[0] in said and "text: rollouts" in said


def test_leave_one_out_wants_three_attempts(tmp_path):
    said = complaint(tmp_path, "stages.0.leave_one_out=true", "rollout.attempts=2")
    assert "leave_one_out" in said and "rollout.attempts" in said


@pytest.mark.parametrize(
    "override",
    [
        "pacing.permute=true",
        "pacing.apply=sample",
        "pacing.order=easy_to_hard",
    ],
)
def test_what_belongs_to_stored_text_is_refused_with_rollouts(tmp_path, override):
    assert override.split("=")[0] in complaint(tmp_path, override)
    load_config(write_on_policy(tmp_path), ["stages.0.text=responses", override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.0.text=rollout", "rollouts"),
        ("stages.0.rollout_every=0", "rollout_every"),
        ("stages.0.train_on=some", "one"),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path, override, words):
    assert words in complaint(tmp_path, override)


@pytest.mark.parametrize("text", ["responses", "rollouts"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_any_text_goes_with_any_divergence(tmp_path, text, divergence):
    config = load_config(
        write_on_policy(tmp_path), [f"stages.0.text={text}", f"stages.0.divergence={divergence}"]
    )
    assert (config.stages[0].text, config.stages[0].divergence) == (text, divergence)


def test_a_discount_wants_rollouts_and_the_posterior(tmp_path):
    half = ["pacing.discount=0.5", "pacing.estimator=posterior"]
    load_config(write_on_policy(tmp_path), half)
    assert "estimator=plugin does not take" in complaint(tmp_path, half[0])
    assert "has text: rollouts" in complaint(tmp_path, "stages.0.text=responses", *half)
