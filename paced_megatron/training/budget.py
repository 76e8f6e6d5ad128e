"""What a stage has spent of its budget, when it has ended, and with which step.

A step is never cut: the first one with which the budget is spent is the last. How many steps that makes is
known before where the budget is in steps, else once training has ended, from the stage's training.json; so
whoever asks for a stage's last step asks `last_step`. No Megatron here: reports and comparisons ask too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from paced_megatron.config import Config
from paced_megatron.config.budget import Budget
from paced_megatron.errors import UserError
from paced_megatron.run_folder import RunFolder, StageFolder
from paced_megatron.runtime.files import write_atomically

if TYPE_CHECKING:
    from paced_megatron.training.examples import Example

LEAST_PATIENCE = 10  # steps

SPENT, EMPTY = "budget spent", "no text"  # why a stage has ended


@dataclass(frozen=True)
class Spent:
    """What a stage has spent so far; part of its checkpoints.

    Attributes:
        steps: those with nothing on the frontier included.
        tokens: response tokens that were trained on (`tokens_of`).
        seconds: of these steps by rank 0's clock, without rollouts, evaluations and saving.
        empty_steps: the last so many steps had no text.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    empty_steps: int = 0

    def plus(self, tokens: int, seconds: float) -> Spent:
        """One step more."""
        empty = 0 if tokens else self.empty_steps + 1
        return Spent(self.steps + 1, self.tokens + tokens, self.seconds + seconds, empty)


AMOUNTS: dict[str, Callable[[Spent], float]] = {
    "train_iters": lambda spent: spent.steps,
    "train_tokens": lambda spent: spent.tokens,
    "train_seconds": lambda spent: spent.seconds,
}


def tokens_of(examples: Sequence[Example]) -> int:
    """Response tokens that are trained on: of all texts of weight above 0, those included whose token weight
    (`training.token_weights`) is 0, which shows only within the step. Prompts are not counted."""
    return sum(len(example.response) for example in examples if example.weight > 0)


@dataclass
class Meter:
    """A stage's budget, and what has been spent of it."""

    budget: Budget
    spent: Spent = Spent()

    def count(self, tokens: int, seconds: float) -> None:
        """Count a step."""
        self.spent = self.spent.plus(tokens, seconds)

    @property
    def amount(self) -> float:
        """What is spent, in the budget's unit."""
        return AMOUNTS[self.budget.name](self.spent)

    @property
    def fraction(self) -> float:
        """Of the budget; the last step may take it above 1."""
        return self.amount / self.budget.amount

    def why_ended(self, patience: int) -> str | None:
        """SPENT, or EMPTY after `patience` steps in a row without a text, which take nothing off a budget in
        tokens and next to nothing off one in seconds; None: it goes on."""
        if self.amount >= self.budget.amount:
            return SPENT
        return EMPTY if self.budget.steps is None and self.spent.empty_steps >= patience else None

    def at(self, step: int) -> str:
        """As in "step 7 of 12" or "step 7 (1,210 of 2,000 tokens)"."""
        if self.budget.steps is not None:
            return f"step {step} of {self.budget.steps}"
        shown = round(self.amount, 1)
        return f"step {step} ({shown:,} of {self.budget})"


def patience_with(problems: int, batch_size: int) -> int:
    """How many steps in a row may be without a text: as many as draw each problem once, at least ten."""
    return max(LEAST_PATIENCE, math.ceil(problems / batch_size))


def steps_within(budget: Budget, batch_of: Callable[[int], Sequence[Example]]) -> int | None:
    """How many steps a budget makes with these batches (step, from 1 -> its texts); None: only the clock
    knows."""
    if budget.name == "train_seconds":
        return None
    if budget.steps is not None:
        return budget.steps
    tokens = 0
    for step in count(1):
        tokens += tokens_of(batch_of(step))
        if tokens >= budget.amount:
            return step
    raise AssertionError("count has no end")


def write_ended(folder: StageFolder, spent: Spent, why: str) -> None:
    """training.json: the stage's training has ended, its last checkpoint is there."""
    content = {"last_step": spent.steps, "tokens": spent.tokens, "seconds": spent.seconds, "why": why}
    write_atomically(folder.training, json.dumps(content) + "\n")


def last_step(folder: StageFolder, budget: Budget) -> int | None:
    """The step with which the stage's training ends; None where that is not known before it has ended.

    Raises:
        UserError: training.json can't be read.
    """
    if budget.steps is not None:
        return budget.steps
    try:
        content: dict[str, Any] = json.loads(folder.training.read_text())
        return int(content["last_step"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder.training} can't be read ({error}); put it back, or remove it and "
            f"{folder.student.name}/ beside it, and `paced train` writes it again"
        ) from None


def end_of(run: RunFolder, config: Config) -> tuple[int, int] | None:
    """(stage, step) with which a run's training ends: the key of its last measurements; None as in
    `last_step`."""
    number = len(config.stages)
    step = last_step(run.stage(number), config.budget(number))
    return None if step is None else (number, step)


def without_texts(spent: Spent, budget: Budget) -> str:
    """What is said of a stage that ends because nothing is on the frontier any more."""
    return (
        f"the last {spent.empty_steps} steps had nothing on the frontier, and such steps do not spend "
        f"{budget.key}={budget.amount}, so training ends with step {spent.steps} ({spent.tokens} tokens): "
        "bring problems nearer to the frontier, raise rollout.attempts or training.global_batch_size, or end "
        "with the stage before"
    )
