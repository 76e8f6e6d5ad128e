"""Adaptive rollouts: which problems should be attempted more often, by how much that would tell."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paced_megatron.pacing.kernels import Beta, Kernel
from paced_megatron.pacing.pass_rate import PassRate
from paced_megatron.pacing.prior import Prior, fit_prior, log_beta, posterior_mean


def value_of_attempts(kernel: Kernel, prior: Prior, correct: int, attempts: int, more: int) -> float:
    """By how much `more` attempts are expected to lower the squared error of a weight, before its constant.

    The error of the posterior mean is the posterior variance of kernel(p); what further attempts take off
    it on average is the variance of the posterior mean that they will lead to:
    sum_j P(j of `more` correct | k, n) (E[kernel | k+j, n+more] - E[kernel | k, n])^2, P the beta-binomial.
    """
    a, b = prior.posterior(correct, attempts)
    now = posterior_mean(kernel, a, b)
    return math.fsum(
        math.exp(
            math.lgamma(more + 1)
            - math.lgamma(j + 1)
            - math.lgamma(more - j + 1)
            + log_beta(a + j, b + more - j)
            - log_beta(a, b)
        )
        * (posterior_mean(kernel, a + j, b + more - j) - now) ** 2
        for j in range(more + 1)
    )


def next_round(
    rates: Sequence[PassRate],
    kernel: Kernel,
    *,
    more: int,
    budget: int,
    most: int,
    seed: int,
) -> list[str]:
    """The problems that get `more` further attempts each in a round of at most `budget` attempts, those that
    tell most first. A pure function of what was counted, so that a resumed run allocates alike.

    Args:
        rates: of all problems, so far; the prior is fitted to them.
        most: no problem gets beyond this many attempts.
        seed: decides between problems with the same counts.

    Returns ids, fewer than the budget would pay for where no more problems have anything to tell.
    """
    prior = fit_prior(rates)
    counts = {(rate.correct, rate.attempts) for rate in rates if rate.attempts + more <= most}
    values: Mapping[tuple[int, int], float] = {
        (correct, attempts): value_of_attempts(kernel, prior, correct, attempts, more)
        for correct, attempts in counts
    }
    candidates = [rate for rate in rates if values.get((rate.correct, rate.attempts), 0.0) > 0]
    random.Random(seed).shuffle(candidates)
    candidates.sort(key=lambda rate: -values[rate.correct, rate.attempts])
    return [rate.problem_id for rate in candidates[: budget // more]]


Key = tuple[str, int]  # (problem id, index of the attempt)


@dataclass(frozen=True)
class Plan:
    """How attempts are handed out.

    Attributes:
        mean: attempts per problem that the whole may take on average.
        rounds: in which attempts are added; each may take an even share of what is left.
        first: attempts that every problem gets before the first round; step: that a chosen one gets in a
            round; most: that none exceeds.
    """

    mean: int
    rounds: int
    first: int
    step: int
    most: int


def attempt_rounds(
    problem_ids: Sequence[str], solved: Mapping[Key, bool], plan: Plan, seed: int
) -> list[list[Key]]:
    """The attempts to be made, round by round, as far as they follow from those that were made.

    The list ends with the first round that is not complete in `solved`; where all of it is complete,
    nothing is left to be made. A pure function of the complete rounds: a resumed run plans alike.

    The uncertainty that decides is that of p(1-p), whatever the kernel, so that the arms of an experiment,
    which differ in it, can share their attempts.

    Args:
        solved: of the attempts that were made, which were correct.
    """
    rounds = [[(name, index) for name in problem_ids for index in range(plan.first)]]
    counts = dict.fromkeys(problem_ids, plan.first)
    left = (plan.mean - plan.first) * len(problem_ids)
    for number in range(plan.rounds):
        if any(key not in solved for key in rounds[-1]):
            break
        rates = [
            PassRate(name, sum(solved[name, index] for index in range(count)), count)
            for name, count in counts.items()
        ]
        share = left // (plan.rounds - number)
        chosen = next_round(
            rates, _UNCERTAIN, more=plan.step, budget=share, most=plan.most, seed=seed + number
        )
        if not chosen:
            break
        rounds.append([(name, counts[name] + extra) for name in chosen for extra in range(plan.step)])
        for name in chosen:
            counts[name] += plan.step
        left -= plan.step * len(chosen)
    return rounds


_UNCERTAIN = Beta(1.0, 1.0)
