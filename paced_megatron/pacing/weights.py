"""The weights of a stage's problems: kernel of the pass rate, mean 1 over the problems that are kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paced_megatron.errors import UserError
from paced_megatron.pacing.kernels import Kernel
from paced_megatron.pacing.pass_rate import ESTIMATORS, PassRate


@dataclass(frozen=True)
class PacedWeights:
    """A stage's weights and what was left out.

    `weights` holds the problems on the frontier alone, in the order of their pass rates, with mean 1.
    weight = `constant` x the estimated kernel. `histogram[k]` counts the problems with k correct attempts.
    """

    weights: dict[str, float]
    constant: float
    dropped_k0: int
    dropped_kK: int
    histogram: list[int]

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


def problem_weights(
    pass_rates: Sequence[PassRate], kernel: Kernel, *, estimator: str = "plugin"
) -> PacedWeights:
    """Weigh the problems on the frontier (0 < k < K) and drop the others.

    One constant for the whole set gives the weights mean 1. It must not be taken per batch: Adam forgets a
    constant factor, but a factor that changes from batch to batch weighs the batches anew and undoes pacing
    between them.

    Raises UserError where there is nothing to train on: one attempt per problem, no problem on the frontier,
    or a kernel that gives them no weight.
    """
    histogram = _histogram(pass_rates)
    _check_frontier(pass_rates, histogram)
    estimate = ESTIMATORS[estimator]
    raw = {r.problem_id: estimate(r.correct, r.attempts, kernel) for r in pass_rates if r.on_frontier}
    total = math.fsum(raw.values())
    constant = len(raw) / total if total > 0 else math.inf
    if not math.isfinite(constant):
        raise UserError(
            f"the pacing kernel gives the {len(raw)} problems on the frontier no weight (sum {total:g}; "
            f"{_show(histogram)}): choose smaller pacing.alpha and pacing.beta"
        )
    return PacedWeights(
        weights={problem_id: constant * value for problem_id, value in raw.items()},
        constant=constant,
        dropped_k0=sum(r.correct == 0 for r in pass_rates),
        dropped_kK=sum(r.correct == r.attempts for r in pass_rates),
        histogram=histogram,
    )


def _histogram(pass_rates: Sequence[PassRate]) -> list[int]:
    counts = [0] * (max((r.attempts for r in pass_rates), default=0) + 1)
    for rate in pass_rates:
        counts[rate.correct] += 1
    return counts


def _show(histogram: Sequence[int]) -> str:
    return ", ".join(f"k={k}: {count}" for k, count in enumerate(histogram) if count)


def _check_frontier(pass_rates: Sequence[PassRate], histogram: Sequence[int]) -> None:
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
    if not any(r.on_frontier for r in pass_rates):
        raise UserError(
            f"none of the {len(pass_rates)} problems is on the student's frontier (0 < k < K, K={most}; "
            f"problems by correct attempts: {_show(histogram)}): {_remedy(pass_rates)}"
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
