"""Pass rates: how often the student solved a problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class ScoredAttempt(Protocol):
    """What an attempt has to have: `rollout.Attempt` is one. Named here so that this room needs no other."""

    @property
    def problem_id(self) -> str: ...

    @property
    def outcome(self) -> str: ...


@dataclass(frozen=True)
class PassRate:
    """`correct` of a problem's `attempts` were correct: k of K."""

    problem_id: str
    correct: int
    attempts: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.attempts or self.attempts < 1:
            raise ValueError(f"problem {self.problem_id}: {self.correct} correct of {self.attempts} attempts")

    @property
    def value(self) -> float:
        """k / K."""
        return self.correct / self.attempts

    @property
    def on_frontier(self) -> bool:
        """0 < k < K: sometimes solved, sometimes not, whatever the estimator of the weight says."""
        return 0 < self.correct < self.attempts


def pass_rates(attempts: Iterable[ScoredAttempt]) -> list[PassRate]:
    """One pass rate per problem, in the order in which the problems first appear.

    Every outcome but `correct` counts as a failure: a student that was cut off, cannot be parsed or could not
    be scored in time has failed within its budget.
    """
    correct: dict[str, int] = {}
    total: dict[str, int] = {}
    for attempt in attempts:
        total[attempt.problem_id] = total.get(attempt.problem_id, 0) + 1
        correct[attempt.problem_id] = correct.get(attempt.problem_id, 0) + (attempt.outcome == "correct")
    return [PassRate(problem_id, correct[problem_id], total[problem_id]) for problem_id in total]
