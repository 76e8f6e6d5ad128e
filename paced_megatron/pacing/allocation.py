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


def offers(kernel: Kernel, prior: Prior, rate: PassRate, step: int, most: int) -> list[tuple[float, int]]:
    """(value per attempt, attempts): what a problem's further attempts tell, portion after portion, each of
    less value per attempt than the one before.

    A portion is a multiple of `step`: where one step can tell nothing and several can, as for p(1-p) after as
    many right as wrong, looking one step ahead alone would stop (Frazier and Powell, "Paradoxes in
    learning", 2010). So this is the concave envelope of `value_of_attempts`.
    """
    ahead = range(0, min(AHEAD * step, most - rate.attempts) + 1, step)
    told = {more: value_of_attempts(kernel, prior, rate.correct, rate.attempts, more) for more in ahead}
    portions, at = [], 0
    while any(more > at for more in told):
        value, then = max(((told[more] - told[at]) / (more - at), more) for more in told if more > at)
        portions.append((value, then - at))
        at = then
    return portions


AHEAD = 6  # steps that a problem can get in one round, at most


def next_round(
    rates: Sequence[PassRate],
    kernel: Kernel,
    *,
    step: int,
    budget: int,
    most: int,
    seed: int,
) -> dict[str, int]:
    """How many further attempts each problem gets in a round of at most `budget` attempts, those that tell
    most first. A pure function of what was counted, so that a resumed run allocates alike.

    Args:
        rates: of all problems, so far; the prior is fitted to them.
        step: attempts are added in multiples of it.
        most: no problem gets beyond this many attempts.
        seed: decides between problems with the same counts.

    Returns problem ids and attempts, fewer than `budget` where no more problems have anything to tell.
    """
    prior = fit_prior(rates)
    known: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for rate in rates:
        if (rate.correct, rate.attempts) not in known:
            known[rate.correct, rate.attempts] = offers(kernel, prior, rate, step, most)
    shuffled = list(rates)
    random.Random(seed).shuffle(shuffled)
    candidates = [
        (value, more, rate.problem_id)
        for rate in shuffled
        for value, more in known[rate.correct, rate.attempts]
        if value > 0
    ]
    chosen: dict[str, int] = {}
    left = budget // step * step
    for _, more, problem_id in sorted(candidates, key=lambda candidate: -candidate[0]):
        given = min(more, left)
        if given == 0:
            break
        chosen[problem_id] = chosen.get(problem_id, 0) + given
        left -= given
    return chosen


Key = tuple[str, int]  # (problem id, index of the attempt)


@dataclass(frozen=True)
class Plan:
    """How attempts are handed out.

    Attributes:
        mean: attempts per problem that the whole may take on average.
        rounds: in which attempts are added; each may take an even share of what is left.
        first: attempts that every problem gets before the first round; step: in multiples of which more are
            added; most: that none exceeds.
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
            rates, _UNCERTAIN, step=plan.step, budget=share, most=plan.most, seed=seed + number
        )
        if not chosen:
            break
        rounds.append(
            [(name, counts[name] + extra) for name, more in chosen.items() for extra in range(more)]
        )
        for name, more in chosen.items():
            counts[name] += more
        left -= sum(chosen.values())
    return rounds


_UNCERTAIN = Beta(1.0, 1.0)
