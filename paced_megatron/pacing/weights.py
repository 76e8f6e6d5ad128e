"""The weights of a stage's problems: kernel of the pass rate, mean 1 over the problems that are kept.

PACED keeps the frontier and weighs it by p(1-p). What it is compared with is made of the same parts: other
problems kept (a row of `KEPT`), the uniform kernel, or the same weights dealt out anew (`permuted`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paced_megatron.errors import UserError
from paced_megatron.pacing.estimators import ESTIMATORS, Estimate, chosen_estimator
from paced_megatron.pacing.kernels import Band, Beta, Gaussian, Kernel, make_kernel
from paced_megatron.pacing.pass_rate import PassRate

if TYPE_CHECKING:
    from paced_megatron.config import PacingConfig

# Which problems are trained on; a row tells by a problem's pass rate whether it is.
KEPT: dict[str, Callable[[PassRate], bool]] = {
    "frontier": lambda rate: rate.on_frontier,
    "solvable": lambda rate: rate.correct > 0,
    "unmastered": lambda rate: rate.correct < rate.attempts,
    "all": lambda rate: True,
}


# What the weights have mean 1 over: those that are kept, or all that were measured, the others counting 0.
NORMALIZE: dict[str, Callable[[int, int], int]] = {
    "kept": lambda kept, measured: kept,
    "all": lambda kept, measured: measured,
}


def what_is_kept(pacing: PacingConfig, attempts: int) -> str:
    """In the words of its keys what decides which problems are kept: equal for two configurations, they keep
    the same problems of a measurement with `attempts` at each. (Not the other way round.)"""
    estimator = chosen_estimator(pacing.estimator, [attempts])
    words = f"pacing.keep: {pacing.keep}"
    if pacing.floor > 0 or estimator == "posterior":
        return words  # no weight is 0
    if pacing.kernel == "band":
        words += f" and kernel: band from {pacing.band_low:g} to {pacing.band_high:g}"
    if estimator == "unbiased":
        words += f" and estimator: unbiased with exponents {pacing.alpha:g} and {pacing.beta:g}"
    return words


@dataclass(frozen=True)
class PacedWeights:
    """A stage's weights and what was left out.

    `weights` holds the problems that are kept alone, in the order of their pass rates, with mean 1 (over all
    problems where `normalize` is `all`). weight = `constant` x `raw` (but for `permuted`). `dropped_k0` and
    `dropped_kK` count the problems left out that were never or always solved. `histogram[k]` counts the
    problems with k correct attempts.

    `raw` is the estimated kernel as a function of (correct, attempts), 0 for what is left out; `weight` is
    the same with the constant: what a problem weighs when it is measured again later in the stage.
    """

    weights: dict[str, float]
    constant: float
    dropped_k0: int
    dropped_kK: int
    histogram: list[int]
    raw: Estimate

    def weight(self, correct: float, attempts: float) -> float:
        """The weight of a problem of which `correct` of `attempts` were correct; 0 where it is left out."""
        return self.constant * self.raw(correct, attempts)

    @property
    def ess(self) -> float:
        """Effective sample size, (sum w)^2 / sum w^2: as many problems of equal weight are as noisy."""
        return effective_sample_size(self.weights.values())

    @property
    def ess_share(self) -> float:
        """ESS over the number of problems kept; 1 when all weigh the same."""
        return self.ess / len(self.weights)


def effective_sample_size(weights: Collection[float]) -> float:
    """(sum w)^2 / sum w^2."""
    return math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)


def stage_weights(pass_rates: Sequence[PassRate], pacing: PacingConfig) -> PacedWeights:
    """The weights of a stage from its opening measurement, as configured (`pacing.permute` aside).

    Raises UserError as `problem_weights` does, and where the estimator is not there for these counts.
    """
    return problem_weights(
        pass_rates,
        make_kernel(pacing, [rate.value for rate in pass_rates if rate.on_frontier]),
        estimator=pacing.estimator,
        keep=pacing.keep,
        floor=pacing.floor,
        normalize=pacing.normalize,
    )


def problem_weights(
    pass_rates: Sequence[PassRate],
    kernel: Kernel,
    *,
    estimator: str = "plugin",
    keep: str = "frontier",
    floor: float = 0.0,
    normalize: str = "kept",
) -> PacedWeights:
    """Weigh the problems that `keep` (a row of `KEPT`) keeps, and drop the others, and those of weight 0.

    One constant for the whole set gives the weights mean 1. It must not be taken per batch: Adam forgets a
    constant factor, but a factor that changes from batch to batch weighs the batches anew and undoes pacing
    between them.

    Args:
        estimator: a row of ESTIMATORS, or `auto`.
        floor: the estimated kernel is at least this for what is kept.
        normalize: a row of NORMALIZE.

    Raises UserError where there is nothing to train on: one attempt per problem, no problem on the frontier
    (or none that is kept), or a kernel that gives them no weight.
    """
    histogram = _histogram(pass_rates)
    kept = [rate for rate in pass_rates if KEPT[keep](rate)]
    _check_kept(pass_rates, kept, keep, histogram)
    chosen = chosen_estimator(estimator, [rate.attempts for rate in pass_rates])
    estimate = ESTIMATORS[chosen](kernel, pass_rates)

    def raw(correct: float, attempts: float) -> float:
        keeps = KEPT[keep](PassRate("", correct, attempts))  # type: ignore[arg-type]  # or discounted counts
        return max(estimate(correct, attempts), floor) if keeps else 0.0

    values = {rate.problem_id: raw(rate.correct, rate.attempts) for rate in kept}
    weighted = {problem_id: value for problem_id, value in values.items() if value > 0}
    total = math.fsum(weighted.values())
    constant = NORMALIZE[normalize](len(weighted), len(pass_rates)) / total if total > 0 else math.inf
    if not math.isfinite(constant):
        raise UserError(
            f"the pacing kernel gives the {len(values)} problems {_KEPT_NAMES[keep]} no weight "
            f"(sum {total:g}; {_show(histogram)}): {_WEIGHTLESS.get(type(kernel), _WEIGHTLESS[Beta])}"
        )
    dropped = [rate for rate in pass_rates if rate.problem_id not in weighted]
    return PacedWeights(
        weights={problem_id: constant * value for problem_id, value in weighted.items()},
        constant=constant,
        dropped_k0=sum(rate.correct == 0 for rate in dropped),
        dropped_kK=sum(rate.correct == rate.attempts for rate in dropped),
        histogram=histogram,
        raw=raw,
    )


# What to change where a kernel gives nothing to what is kept.
_WEIGHTLESS = {
    Beta: "choose smaller pacing.alpha and pacing.beta",
    Gaussian: "choose a larger pacing.gaussian_std",
    Band: "widen pacing.band_low and pacing.band_high",
}


def permuted(paced: PacedWeights, seed: int) -> PacedWeights:
    """The same weights, dealt out anew among the same problems: is it the shape of the kernel that helps, or
    which problems are kept?"""
    values = list(paced.weights.values())
    random.Random(seed).shuffle(values)
    return replace(paced, weights=dict(zip(paced.weights, values, strict=True)))


def _histogram(pass_rates: Sequence[PassRate]) -> list[int]:
    counts = [0] * (max((r.attempts for r in pass_rates), default=0) + 1)
    for rate in pass_rates:
        counts[rate.correct] += 1
    return counts


def _show(histogram: Sequence[int]) -> str:
    return ", ".join(f"k={k}: {count}" for k, count in enumerate(histogram) if count)


_KEPT_NAMES = {
    "frontier": "on the frontier",
    "solvable": "that are solved at least once",
    "unmastered": "that are not always solved",
    "all": "of the set",
}


def _check_kept(
    pass_rates: Sequence[PassRate], kept: Sequence[PassRate], keep: str, histogram: Sequence[int]
) -> None:
    if len({r.problem_id for r in pass_rates}) < len(pass_rates):
        raise ValueError("a problem has two pass rates: pool its attempts first")
    if not pass_rates:
        raise UserError("there are no attempts to weigh: run `paced rollout` first")
    most = max(r.attempts for r in pass_rates)
    if most < 2:
        raise UserError(
            f"each of the {len(pass_rates)} problems has one attempt, so none can be on the student's "
            "frontier (0 < k < K): set rollout.attempts to 2 at least, 8 is advised"
        )
    if kept:
        return
    counts = f"K={most}; problems by correct attempts: {_show(histogram)}"
    if keep == "frontier":
        raise UserError(
            f"none of the {len(pass_rates)} problems is on the student's frontier (0 < k < K, {counts}): "
            f"{_remedy(pass_rates)}"
        )
    raise UserError(
        f"pacing.keep={keep} keeps none of the {len(pass_rates)} problems ({counts}): {_remedy(pass_rates)}"
    )


def _remedy(pass_rates: Sequence[PassRate]) -> str:
    """What to change, by the side on which the problems lie."""
    remedies = []
    if any(r.correct == 0 for r in pass_rates):
        remedies.append(
            "take easier problems, a stronger student, or, if many attempts were truncated, a larger "
            "rollout.max_new_tokens"
        )
    if any(r.correct == r.attempts for r in pass_rates):
        remedies.append("take harder problems or a weaker student")
    remedies.append("raise rollout.attempts")
    return "; or ".join(remedies)
