"""Which of a stage's stored texts each step trains on, as `pacing.apply` and `pacing.order` say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from paced_megatron.config import Budget, PacingConfig
from paced_megatron.pacing import drawn_by_weight, easy_to_hard
from paced_megatron.training.batches import batch_order
from paced_megatron.training.budget import steps_within
from paced_megatron.training.examples import Example

Order = Callable[[int], list[int]]  # step, from 1 -> indices of its examples


def paced_batches(
    pacing: PacingConfig, examples: Sequence[Example], *, batch_size: int, budget: Budget, seed: int
) -> tuple[list[Example], Order]:
    """The examples with the weights that their losses take, and the order in which they are trained.

    With `pacing.apply: sample` the weights decide how often an example is drawn, and its loss counts once.
    The order depends on the arguments only, so that a resumed run needs no state.

    Sorted easy to hard are the texts that the shuffled batches would have come to within the budget. With one
    in tokens the sorted ones may spend it a step earlier, for their last batch has other lengths.

    Args:
        examples: with their problems' weights and pass rates.
        budget: of the stage; not in seconds where the texts are sorted (config/pacing_rules.py).
    """
    if pacing.apply == "sample":
        weights = [example.weight for example in examples]
        return (
            [replace(example, weight=1.0) for example in examples],
            lambda step: drawn_by_weight(weights, batch_size, step - 1, seed),
        )

    def shuffled(step: int) -> list[int]:
        return batch_order(len(examples), batch_size, step - 1, seed)

    if pacing.order == "shuffled":
        return list(examples), shuffled
    rates = [example.pass_rate for example in examples]
    if any(rate is None for rate in rates):
        raise ValueError("to be sorted by pass rate, every example has to have one")
    steps = steps_within(budget, lambda step: [examples[index] for index in shuffled(step)])
    if steps is None:
        raise ValueError("how many texts are to be sorted is not known of a budget in seconds")
    whole = easy_to_hard(
        [index for step in range(1, steps + 1) for index in shuffled(step)],
        [rate for rate in rates if rate is not None],
    )
    return list(examples), lambda step: whole[(step - 1) * batch_size : step * batch_size]
