"""Rules about the text that a stage is trained on."""

from __future__ import annotations

from paced_megatron.config import Config, StageConfig
from paced_megatron.config.layouts import Rule

# Keys of a stage that are about rollouts, and when they are set.
_ABOUT_ROLLOUTS = {
    "rollout_every": lambda stage: stage.rollout_every > 1,
    "train_on": lambda stage: stage.train_on != "all",
    "leave_one_out": lambda stage: stage.leave_one_out,
}

# Keys of `pacing` that are about stored text, with the value that is.
_ABOUT_STORED_TEXT = {"permute": True, "apply": "sample", "order": "easy_to_hard"}


def _on_policy(config: Config) -> list[tuple[int, StageConfig]]:
    return [(number, stage) for number, stage in enumerate(config.stages) if stage.text == "rollouts"]


def _keys_fit_the_text(config: Config) -> str | None:
    for number, stage in enumerate(config.stages):
        for key, is_set in _ABOUT_ROLLOUTS.items():
            if stage.text != "rollouts" and is_set(stage):
                return (
                    f"stages.{number}.{key} is about the student's rollouts, and stages.{number}.text is "
                    f"{stage.text}; set text: rollouts, or leave {key} out"
                )
    return None


def _some_are_left(config: Config) -> str | None:
    attempts = config.rollout.attempts
    for number, stage in _on_policy(config):
        if stage.leave_one_out and attempts < 3:
            return (
                f"stages.{number}.leave_one_out needs rollout.attempts of 3 at least: with {attempts}, one "
                "is left, and one alone tells no frontier"
            )
    return None


def _weights_are_their_own(config: Config) -> str | None:
    for key, value in _ABOUT_STORED_TEXT.items():
        if getattr(config.pacing, key) == value and _on_policy(config):
            return (
                f"pacing.{key}={str(value).lower()} is about the weights of stored text; with text: rollouts "
                "each step's weights come from its own attempts: leave it out"
            )
    return None


def _fractions_have_an_estimator(config: Config) -> str | None:
    if config.pacing.discount == 0:
        return None
    if not _on_policy(config):
        return (
            f"pacing.discount={config.pacing.discount:g} is about steps that measure p again, and no stage "
            "has text: rollouts; leave it out"
        )
    if config.pacing.estimator != "posterior":
        return (
            f"pacing.discount={config.pacing.discount:g} makes fractions of counts, which pacing.estimator="
            f"{config.pacing.estimator} does not take; set it to posterior"
        )
    return None


TEXT_RULES: list[Rule] = [
    (
        "stages",
        "has `rollout_every`, `train_on` and `leave_one_out` only with `text: rollouts`",
        _keys_fit_the_text,
    ),
    ("stages", "with `leave_one_out` needs `rollout.attempts` of 3 at least", _some_are_left),
    (
        "pacing.discount",
        "above 0 needs a stage with `text: rollouts`, and `estimator: posterior`",
        _fractions_have_an_estimator,
    ),
    (
        "pacing",
        "has no `permute`, `apply: sample` or `order: easy_to_hard` where a stage has `text: rollouts`",
        _weights_are_their_own,
    ),
]
