"""How long a stage is trained: exactly one of three keys, of the stage or, for all stages, of `training`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from paced_megatron.config.key import Key


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The keys of a budget. A stage that names one has its own, the others that of `training`."""

    train_iters: Annotated[
        int | None,
        Key(
            "budget in optimizer steps; with `text: rollouts` a step with no problem on the frontier counts "
            "too, though nothing moves",
            at_least=1,
        ),
    ] = None
    train_tokens: Annotated[
        int | None,
        Key(
            "budget in response tokens trained on, those of texts of weight above 0, each time that they are "
            "trained on; the first step at or beyond it is the last (method.md, 5)",
            at_least=1,
        ),
    ] = None
    train_seconds: Annotated[
        float | None,
        Key(
            "budget in seconds of training steps alone, without rollouts, evaluations and saving; the first "
            "step at or beyond it is the last",
            above=0,
        ),
    ] = None


BUDGETS = tuple(key.name for key in fields(BudgetConfig))
UNITS = {"train_iters": "steps", "train_tokens": "tokens", "train_seconds": "seconds"}


@dataclass(frozen=True)
class Budget:
    """A stage's budget.

    Attributes:
        name: one of BUDGETS.
        amount: how much there is to spend, in its unit.
        key: where it was set, as "stages.0.train_tokens".
    """

    name: str
    amount: float
    key: str

    @property
    def unit(self) -> str:
        """steps, tokens or seconds."""
        return UNITS[self.name]

    @property
    def steps(self) -> int | None:
        """The number of steps, where that is what was set; None: it shows in training."""
        return int(self.amount) if self.name == "train_iters" else None

    def __str__(self) -> str:
        """As in "20,000 tokens" or "2.5 seconds"."""
        whole = int(self.amount)
        return f"{whole if whole == self.amount else self.amount:,} {self.unit}"


def named(keys: BudgetConfig) -> list[str]:
    """Which budgets a section names."""
    return [name for name in BUDGETS if getattr(keys, name) is not None]


def budget_of(stage: BudgetConfig, training: BudgetConfig, number: int = 1) -> Budget:
    """The budget of stage `number` (from 1): its own, else that of `training`.

    Raises:
        ValueError: neither names one; config/rules.py has told the user before.
    """
    for keys, section in ((stage, f"stages.{number - 1}"), (training, "training")):
        for name in named(keys):
            return Budget(name, getattr(keys, name), f"{section}.{name}")
    raise ValueError(f"stage {number} has no budget")
