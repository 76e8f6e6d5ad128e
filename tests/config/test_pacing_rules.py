"""Which keys about weights, and about the attempts they are made of, go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from paced_megatron.config import Config
from paced_megatron.config.io import config_from_dict
from paced_megatron.errors import UserError


def config_of(pacing: dict[str, object], rollout: dict[str, object], **sections: object) -> Config:
    data = {
        "run_dir": "runs/a",
        "problems": {"train": "train.jsonl", "test": "test.jsonl"},
        "student": {"path": "student"},
        "teacher": {"path": "teacher"},
        "pacing": pacing,
        "rollout": rollout,
        "stages": [{"train_iters": 10}],
        **sections,
    }
    return config_from_dict(data, "run.yaml", Path("/recipe"))


ADAPTIVE = {"adaptive": {"rounds": 4}}


@pytest.mark.parametrize(
    ("pacing", "rollout"),
    [
        ({}, {}),
        ({"keep": "all", "kernel": "uniform"}, {}),
        ({"keep": "all", "estimator": "posterior"}, {}),
        ({"keep": "all"}, {"attempts": 4}),  # auto: the posterior
        ({"keep": "all", "floor": 0.01}, {}),
        ({"keep": "all", "kernel": "band", "band_low": 0.1}, {}),
        ({"estimator": "unbiased", "alpha": 2}, {"attempts": 3}),
        ({}, ADAPTIVE),
        ({"estimator": "posterior", "kernel": "gaussian"}, ADAPTIVE),
        ({"band_low": 0.4, "band_high": 0.4, "kernel": "band"}, {}),
        ({"apply": "sample"}, {}),
        ({"order": "easy_to_hard", "kernel": "uniform"}, {}),
    ],
)
def test_what_goes_together_is_taken(pacing: dict[str, object], rollout: dict[str, object]) -> None:
    config_of(pacing, rollout)


def test_leave_one_out_takes_one_attempt_from_the_unbiased_estimator() -> None:
    pacing = {"estimator": "unbiased", "alpha": 2, "beta": 2}
    stages = [{"train_iters": 1, "text": "rollouts", "leave_one_out": True}]
    config_of(pacing, {"attempts": 5}, stages=stages)
    with pytest.raises(UserError, match=r"not 3: raise rollout\.attempts, .* leave out leave_one_out"):
        config_of(pacing, {"attempts": 4}, stages=stages)


@pytest.mark.parametrize(
    ("pacing", "rollout", "said"),
    [
        ({"alpha": -1}, {}, "pacing.alpha must be at least 0, not -1"),
        ({"beta": -0.5}, {}, "pacing.beta must be at least 0"),
        ({"floor": -0.1}, {}, "pacing.floor must be at least 0"),
        ({"gaussian_std": 0}, {}, "pacing.gaussian_std must be above 0"),
        ({"band_high": 1.5}, {}, "pacing.band_high must be at least 0 and at most 1"),
        ({"kernel": "bata"}, {}, "pacing.kernel must be .*; did you mean beta"),
        ({"band_low": 0.8, "band_high": 0.2}, {}, "pacing.band_low=0.8 is above pacing.band_high=0.2"),
        ({"keep": "all"}, {}, "never solved, and the kernel beta gives them no weight"),
        ({"keep": "solvable", "estimator": "unbiased"}, {}, "always solved, and the kernel beta gives"),
        ({"keep": "all", "estimator": "plugin"}, {"attempts": 4}, "gives them no weight"),
        ({"estimator": "unbiased", "alpha": 0.5}, {}, "whole exponents, not 0.5 and 1"),
        ({"estimator": "unbiased", "alpha": 3}, {"attempts": 3}, r"alpha \+ beta = 4 attempts .*, not 3"),
        ({"estimator": "unbiased", "kernel": "sqrt"}, {}, "pacing.kernel=beta alone"),
        ({"estimator": "unbiased", "kernel": "beta_fitted"}, {}, "pacing.kernel=beta alone"),
        ({"estimator": "plugin"}, ADAPTIVE, "spoils pacing.estimator=plugin; set it to posterior"),
        ({"estimator": "unbiased"}, ADAPTIVE, "spoils pacing.estimator=unbiased"),
        ({}, {"attempts": 4, **ADAPTIVE}, "must lie above rollout.adaptive.first=4"),
        ({}, {"adaptive": {"rounds": 4, "most": 6}}, "not above rollout.adaptive.most=6"),
        ({"apply": "sample", "order": "easy_to_hard"}, {}, "draws the order, .* sorts it: choose one"),
        ({"apply": "sample", "normalize": "all"}, {}, "pacing.normalize=all changes nothing"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    pacing: dict[str, object], rollout: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        config_of(pacing, rollout)
    assert str(caught.value).startswith("run.yaml") and "\n" not in str(caught.value)


def test_pass_rates_after_are_compared_with_as_many_attempts_before() -> None:
    with pytest.raises(UserError, match="pass_rates_after compares K attempts"):
        config_of({}, ADAPTIVE, evaluation={"pass_rates_after": True})
