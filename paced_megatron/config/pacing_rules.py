"""Rules about weights, and about the attempts that they are made of: rows of `rules.RULES`."""

from __future__ import annotations

from paced_megatron.config import Config
from paced_megatron.config.layouts import Rule
from paced_megatron.pacing import (
    KEPT,
    PassRate,
    chosen_estimator,
    make_kernel,
    unbiased_complaint,
    uniform,
)


def _estimator(config: Config) -> str:
    """The row of ESTIMATORS that a stage's opening measurement will be weighed with."""
    if config.rollout.adaptive.rounds and config.pacing.estimator == "auto":
        return "posterior"  # attempts differ
    return chosen_estimator(config.pacing.estimator, [config.rollout.attempts])


def _kept_have_weight(config: Config) -> str | None:
    pacing = config.pacing
    if pacing.floor > 0 or pacing.kernel == "band" or _estimator(config) == "posterior":
        return None  # the band leaves out what lies outside it: that is what it is for
    kernel, kept = make_kernel(pacing), KEPT[pacing.keep]
    for rate, solved in ((PassRate("", 0, 1), "never"), (PassRate("", 1, 1), "always")):
        if kept(rate) and kernel(rate.value) == 0:
            return (
                f"pacing.keep={pacing.keep} keeps problems that are {solved} solved, and the kernel "
                f"{pacing.kernel} gives them no weight; set pacing.kernel=uniform, "
                "pacing.estimator=posterior or a pacing.floor, or keep the frontier"
            )
    return None


def _unbiased_is_there(config: Config) -> str | None:
    pacing = config.pacing
    if pacing.estimator != "unbiased":
        return None
    # By name: the fitted kernel's exponents are not known yet, and will not be whole.
    kernel = make_kernel(pacing) if pacing.kernel == "beta" else uniform
    left_out = any(stage.leave_one_out for stage in config.stages)  # the others' K - 1 attempts weigh
    complaint = unbiased_complaint(kernel, config.rollout.attempts - left_out)
    return f"{complaint}, or leave out leave_one_out" if complaint and left_out else complaint


def _adaptive_is_sound(config: Config) -> str | None:
    rollout, adaptive = config.rollout, config.rollout.adaptive
    if not adaptive.rounds:
        return None
    if config.pacing.estimator not in ("auto", "posterior"):
        return (
            f"rollout.adaptive lets outcomes decide how often a problem is attempted, which spoils "
            f"pacing.estimator={config.pacing.estimator}; set it to posterior"
        )
    if not adaptive.first < rollout.attempts <= adaptive.most:
        return (
            f"rollout.attempts={rollout.attempts} is the mean over the problems and must lie above "
            f"rollout.adaptive.first={adaptive.first} and not above rollout.adaptive.most={adaptive.most}"
        )
    if config.evaluation.pass_rates_after:
        return (
            "evaluation.pass_rates_after compares K attempts before with K after; leave out rollout.adaptive"
        )
    return None


def _band_is_one(config: Config) -> str | None:
    low, high = config.pacing.band_low, config.pacing.band_high
    return None if low <= high else f"pacing.band_low={low:g} is above pacing.band_high={high:g}"


def _order_is_one(config: Config) -> str | None:
    pacing = config.pacing
    if pacing.apply != "sample":
        return None
    if pacing.order != "shuffled":
        return f"pacing.apply=sample draws the order, and pacing.order={pacing.order} sorts it: choose one"
    if pacing.normalize != "kept":
        return (
            f"pacing.apply=sample gives every text weight 1, so that pacing.normalize={pacing.normalize} "
            "changes nothing; leave it out"
        )
    return None


def _sorted_stage_is_known(config: Config) -> str | None:
    if config.pacing.order != "easy_to_hard":
        return None
    for number in range(1, len(config.stages) + 1):
        budget = config.budget(number)
        if budget.name == "train_seconds":
            return (
                f"pacing.order=easy_to_hard sorts all texts of a stage, and how many {budget.key} makes only "
                "the clock knows; set train_iters or train_tokens"
            )
    return None


PACING_RULES: list[Rule] = [
    (
        "pacing.keep",
        "keeps no problem that the kernel gives no weight: `solvable`, `unmastered` and `all` want "
        "`kernel: uniform`, `estimator: posterior` or a `floor`",
        _kept_have_weight,
    ),
    (
        "pacing.estimator",
        "is `unbiased` only with `kernel: beta`, whole exponents and alpha + beta <= `rollout.attempts`",
        _unbiased_is_there,
    ),
    ("pacing.band_low", "is at most `pacing.band_high`", _band_is_one),
    ("pacing.apply", "is `sample` only with `order: shuffled` and `normalize: kept`", _order_is_one),
    ("pacing.order", "is `easy_to_hard` only with `train_iters` or `train_tokens`", _sorted_stage_is_known),
    (
        "rollout.adaptive",
        "with `rounds` above 0 wants `pacing.estimator` `posterior` or `auto`, and `rollout.attempts` above "
        "`first` and at most `most`, and no `evaluation.pass_rates_after`",
        _adaptive_is_sound,
    ),
]
