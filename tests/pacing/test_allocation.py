"""Adaptive rollouts on simulated counts; benchmarks/estimators.py has what they save."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paced_megatron.config import PacingConfig
from paced_megatron.pacing import (
    PassRate,
    Plan,
    Prior,
    attempt_rounds,
    beta,
    next_round,
    offers,
    stage_weights,
    value_of_attempts,
)
from paced_megatron.pacing.allocation import Key

KERNEL = beta(1, 1)


def test_what_attempts_tell_is_what_they_take_off_the_posterior_variance_on_average() -> None:
    # Beta(1, 1) after 1 of 2, one more attempt: Beta(2, 2) -> Beta(3, 2) or Beta(2, 3), each with 1/2.
    # E[p(1-p)] = ab/((a+b)(a+b+1)): 4/20 now, 6/30 = 1/5 after either: nothing is learnt of the weight.
    assert value_of_attempts(KERNEL, Prior(1, 1), 1, 2, 1) == pytest.approx(0, abs=1e-15)
    # After 0 of 1: Beta(1, 2), 2/12. Then Beta(2, 2) with 1/3: 1/5, or Beta(1, 3) with 2/3: 3/20.
    by_hand = (1 / 5 - 1 / 6) ** 2 / 3 + 2 * (3 / 20 - 1 / 6) ** 2 / 3
    assert value_of_attempts(KERNEL, Prior(1, 1), 0, 1, 1) == pytest.approx(by_hand, rel=1e-12)


def test_ever_more_attempts_tell_all_there_is_to_know() -> None:
    # The limit is Var[p(1-p)] under Beta(2, 3): E[p^2(1-p)^2] - E[p(1-p)]^2.
    a, b = 2, 3
    moment = a * (a + 1) * b * (b + 1) / math.prod(a + b + i for i in range(4))
    variance = moment - (a * b / ((a + b) * (a + b + 1))) ** 2
    told = [value_of_attempts(KERNEL, Prior(1, 1), 1, 3, more) for more in (1, 4, 16, 400)]
    assert told == sorted(told)
    assert told[-1] == pytest.approx(variance, rel=0.03) and told[-1] < variance


def test_a_round_goes_to_those_whose_weight_is_most_uncertain_within_its_budget() -> None:
    rates = [PassRate(f"sure{i}", 0, 40) for i in range(20)] + [PassRate(f"new{i}", 1, 4) for i in range(20)]
    chosen = next_round(rates, KERNEL, step=2, budget=21, most=64, seed=1)
    assert sum(chosen.values()) == 20
    assert all(name.startswith("new") and more % 2 == 0 for name, more in chosen.items())
    assert next_round(rates, KERNEL, step=2, budget=1, most=64, seed=1) == {}
    assert not any(
        name.startswith("new") for name in next_round(rates, KERNEL, step=2, budget=99, most=5, seed=1)
    )


def test_equal_counts_are_told_apart_by_the_seed_and_not_by_their_place_in_the_file() -> None:
    rates = [PassRate(f"p{i}", 1, 4) for i in range(100)]
    one, two = (next_round(rates, KERNEL, step=2, budget=40, most=64, seed=seed) for seed in (1, 2))
    assert next_round(rates, KERNEL, step=2, budget=40, most=64, seed=1) == one
    assert set(one) != set(two) and set(one) != {f"p{i}" for i in range(len(one))}


def test_a_round_spends_its_budget_and_a_problem_may_get_several_steps_but_no_more_than_the_most() -> None:
    rates = [PassRate(f"p{i}", 1, 4) for i in range(10)]
    assert sum(next_round(rates, KERNEL, step=2, budget=70, most=64, seed=1).values()) == 70
    capped = next_round(rates, KERNEL, step=2, budget=70, most=9, seed=1)
    assert set(capped.values()) == {4} and len(capped) == 10


def test_portions_add_up_to_what_all_of_them_tell_and_each_tells_less_per_attempt_than_the_one_before() -> (
    None
):
    for counts in ((0, 4), (1, 4), (2, 4), (6, 8), (0, 20)):
        prior, rate = Prior(0.5, 0.7), PassRate("a", *counts)
        portions = offers(KERNEL, prior, rate, step=2, most=64)
        told = sum(value * more for value, more in portions)
        assert sum(more for _, more in portions) == 12
        assert told == pytest.approx(value_of_attempts(KERNEL, prior, *counts, 12), rel=1e-12)
        values = [value for value, _ in portions]
        assert values == sorted(values, reverse=True)


def test_a_first_step_that_can_tell_nothing_is_offered_together_with_the_next() -> None:
    # Under Beta(2, 2) one more attempt leaves E[p(1-p)] as it is, whatever comes out.
    portions = offers(KERNEL, Prior(1, 1), PassRate("a", 1, 2), step=1, most=8)
    assert portions[0][1] > 1 and portions[0][0] > 0


PLAN = Plan(mean=8, rounds=5, first=4, step=2, most=20)


def simulated(p: np.ndarray, seed: int) -> dict[Key, bool]:
    """An answer to every attempt that could be asked for."""
    rng = np.random.default_rng(seed)
    return {(f"p{i}", j): bool(rng.random() < rate) for i, rate in enumerate(p) for j in range(PLAN.most)}


def run(ids: list[str], answers: dict[Key, bool]) -> tuple[list[list[Key]], dict[Key, bool]]:
    solved: dict[Key, bool] = {}
    rounds = attempt_rounds(ids, solved, PLAN, seed=3)
    while any(key not in solved for key in rounds[-1]):
        solved |= {key: answers[key] for key in rounds[-1]}
        rounds = attempt_rounds(ids, solved, PLAN, seed=3)
    return rounds, solved


P = np.random.default_rng(0).beta(0.3, 0.3, 60)
IDS = [f"p{i}" for i in range(60)]


def test_the_rounds_stay_within_the_budget_and_ask_for_each_attempt_once_and_in_order() -> None:
    rounds, solved = run(IDS, simulated(P, 1))
    asked = [key for one in rounds for key in one]
    assert len(asked) == len(set(asked)) == len(solved)
    assert 8 * 60 - PLAN.rounds * PLAN.step < len(asked) <= 8 * 60
    for name in IDS:
        indices = [index for of, index in asked if of == name]
        assert indices == list(range(len(indices))) and 4 <= len(indices) <= 20
    assert len({sum(of == name for of, _ in asked) for name in IDS}) > 2


def test_what_is_asked_next_follows_from_the_complete_rounds_alone() -> None:
    answers = simulated(P, 1)
    rounds, _ = run(IDS, answers)
    for done in range(len(rounds)):
        before = [key for one in rounds[:done] for key in one]
        for part in (0, 1, len(rounds[done]) // 2, len(rounds[done]) - 1):  # killed in the round's midst
            solved = {key: answers[key] for key in [*before, *rounds[done][:part]]}
            assert attempt_rounds(IDS, solved, PLAN, seed=3) == rounds[: done + 1]


def test_a_set_of_which_all_is_known_ends_before_its_budget() -> None:
    plan = Plan(mean=8, rounds=3, first=4, step=2, most=4)
    solved = {(name, index): False for name in IDS for index in range(4)}
    assert attempt_rounds(IDS, solved, plan, seed=3) == [[(n, i) for n in IDS for i in range(4)]]


def test_adaptive_attempts_give_better_weights_than_as_many_spread_evenly() -> None:
    """Mean squared error of the estimated p(1-p), both by the posterior mean, 8 attempts a problem."""
    errors = {"adaptive": 0.0, "even": 0.0}
    for seed in range(12):
        p = np.random.default_rng(100 + seed).beta(0.3, 0.3, 200)
        ids = [f"p{i}" for i in range(200)]
        answers = simulated(p, seed)
        _, solved = run(ids, answers)
        even = {(name, index): answers[name, index] for name in ids for index in range(8)}
        for name, made in (("adaptive", solved), ("even", even)):
            rates = [
                PassRate(i, sum(v for (of, _), v in made.items() if of == i), sum(of == i for of, _ in made))
                for i in ids
            ]
            paced = stage_weights(rates, PacingConfig(estimator="posterior", keep="all"))
            found = np.array([paced.raw(rate.correct, rate.attempts) for rate in rates])
            errors[name] += float(((found - p * (1 - p)) ** 2).mean()) / 12
    assert errors["adaptive"] < 0.96 * errors["even"], errors
