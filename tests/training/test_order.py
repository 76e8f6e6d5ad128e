from __future__ import annotations

import numpy as np
import pytest

from paced_megatron.config import Budget, PacingConfig
from paced_megatron.training.batches import batch_order
from paced_megatron.training.examples import Example
from paced_megatron.training.order import paced_batches

RATES = [0.5, 0.125, 0.875, 0.5, 0.25, 0.75, 0.125]
WEIGHTS = [1.9, 0.5, 0.5, 1.9, 1.0, 1.0, 0.2]
EXAMPLES = [
    Example(f"p{i}", (1,), (1,), (2, 3), weight, rate)
    for i, (weight, rate) in enumerate(zip(WEIGHTS, RATES, strict=True))
]
SETTING = {"batch_size": 4, "budget": Budget("train_iters", 10, "stages.0.train_iters"), "seed": 11}


def test_weighting_takes_the_examples_as_they_are_in_epochs_that_are_shuffled() -> None:
    examples, order = paced_batches(PacingConfig(), EXAMPLES, **SETTING)
    assert examples == EXAMPLES
    for step in range(1, 11):
        assert order(step) == batch_order(7, 4, step - 1, 11)


def test_kernel_estimator_and_permutation_leave_the_order_alone() -> None:
    orders = [
        [paced_batches(pacing, EXAMPLES, **SETTING)[1](step) for step in range(1, 11)]
        for pacing in (
            PacingConfig(),
            PacingConfig(kernel="uniform"),
            PacingConfig(permute=True),
            PacingConfig(kernel="gaussian", estimator="posterior", floor=0.1),
        )
    ]
    assert all(order == orders[0] for order in orders)


def test_sampling_draws_by_weight_and_every_loss_counts_once() -> None:
    examples, order = paced_batches(PacingConfig(apply="sample"), EXAMPLES, **SETTING)
    assert {example.weight for example in examples} == {1.0}
    assert [example.problem_id for example in examples] == [f"p{i}" for i in range(7)]
    draws = [index for step in range(1, 5001) for index in order(step)]
    assert len(draws) == 20_000
    assert np.bincount(draws) / len(draws) == pytest.approx(np.array(WEIGHTS) / 7, abs=0.014)
    assert order(3) == order(3) != order(4)


def test_easy_to_hard_trains_on_the_same_texts_as_often_with_the_pass_rate_falling_all_along() -> None:
    examples, order = paced_batches(PacingConfig(order="easy_to_hard"), EXAMPLES, **SETTING)
    _, shuffled = paced_batches(PacingConfig(), EXAMPLES, **SETTING)
    assert examples == EXAMPLES
    draws = [index for step in range(1, 11) for index in order(step)]
    assert sorted(draws) == sorted(index for step in range(1, 11) for index in shuffled(step))
    rates = [RATES[index] for index in draws]
    assert rates == sorted(rates, reverse=True)
    assert all(len(order(step)) == 4 for step in range(1, 11))


def test_problems_without_a_pass_rate_cannot_be_sorted_by_it() -> None:
    unknown = [Example("a", (1,), (1,), (2,), 1.0)]
    with pytest.raises(ValueError, match="pass rate"):
        paced_batches(PacingConfig(order="easy_to_hard"), unknown, **SETTING)
