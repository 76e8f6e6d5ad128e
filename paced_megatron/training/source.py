"""Where a step's texts come from: what is stored, or what the student says now. One loop trains on either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paced_megatron.config import Budget
from paced_megatron.training.budget import steps_within
from paced_megatron.training.examples import Example
from paced_megatron.training.order import Order
from paced_megatron.training.trainer import Trainer


@dataclass(frozen=True)
class Batch:
    """One step's texts.

    Attributes:
        examples: the same on every rank; none: nothing of the step's problems is on the frontier.
        weights: of the problems that these belong to, one or several texts each.
        rollout: numbers about the rollouts that the step has made (training/metrics.py); empty where it made
            none.
        timing_s: their seconds by part, apart from the step's own.
        tokens: what a mean over tokens divides by: response tokens of all of the step's problems, also of
            those that were left out, a problem of n texts with 1/n of theirs; None: of `examples`, from which
            none was left out.
    """

    examples: Sequence[Example]
    weights: Sequence[float]
    rollout: dict[str, float] = field(default_factory=dict)
    timing_s: dict[str, float] = field(default_factory=dict)
    tokens: float | None = None


class Source(Protocol):
    """What `train_stage` takes its batches from. All ranks ask for the same steps in the same order."""

    @property
    def stored(self) -> Sequence[Example]:
        """Texts that come again and again; none where each is made anew."""
        ...

    def steps_within(self, budget: Budget) -> int | None:
        """How many steps the budget makes; None where that is not known before."""
        ...

    def batch(self, step: int, trainer: Trainer) -> Batch:
        """The texts of `step` (from 1), of which `trainer` has taken those before. A collective."""
        ...


@dataclass(frozen=True)
class StoredText:
    """Texts that are there before training; `order(step)` are the indices of a step's, a function of the step
    alone, so that a resumed run needs no state."""

    stored: Sequence[Example]
    order: Order

    def steps_within(self, budget: Budget) -> int | None:
        """Known but for seconds."""
        return steps_within(budget, self._examples)

    def _examples(self, step: int) -> list[Example]:
        return [self.stored[index] for index in self.order(step)]

    def batch(self, step: int, trainer: Trainer) -> Batch:
        """Always full."""
        examples = self._examples(step)
        return Batch(examples, [example.weight for example in examples])
