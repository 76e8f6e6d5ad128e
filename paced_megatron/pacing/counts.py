"""Counts of a problem's attempts over several visits, older ones fading."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class DiscountedCounts:
    """(correct, attempts) by problem; at each visit what was there counts `discount` of what it did.

    0: the newest visit alone; 1: nothing is forgotten; between, a visit's say is halved after
    ln(1/2) / ln(discount) further visits. For an on-policy stage with few attempts a visit, with the
    posterior estimator, which takes fractions.
    """

    discount: float
    counts: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise ValueError(f"a discount lies between 0 and 1, not at {self.discount}")

    def faded(self, problem_id: str) -> tuple[float, float]:
        """What the visits so far will count at the next one: (correct, attempts)."""
        correct, attempts = self.counts.get(problem_id, (0.0, 0.0))
        return self.discount * correct, self.discount * attempts

    def update(self, problem_id: str, correct: int, attempts: int) -> tuple[float, float]:
        """Count a visit; return the problem's (correct, attempts)."""
        if not 0 <= correct <= attempts:
            raise ValueError(f"problem {problem_id}: {correct} correct of {attempts} attempts")
        old = self.faded(problem_id)
        self.counts[problem_id] = (old[0] + correct, old[1] + attempts)
        return self.counts[problem_id]

    def to_json(self) -> dict[str, object]:
        """As plain values that `json` writes and `from_json` reads back to the last bit."""
        return {
            "discount": self.discount,
            "counts": {name: list(counts) for name, counts in self.counts.items()},
        }

    @classmethod
    def from_json(cls, record: dict[str, object]) -> DiscountedCounts:
        """Read `to_json`'s record. Raises ValueError for anything else."""
        discount, counts = record.get("discount"), record.get("counts")
        if not isinstance(discount, int | float) or not isinstance(counts, dict):
            raise ValueError("discounted counts are {discount: ..., counts: {id: [correct, attempts]}}")
        pairs = {name: (float(pair[0]), float(pair[1])) for name, pair in counts.items()}
        for name, (correct, attempts) in pairs.items():
            if not (0 <= correct <= attempts and math.isfinite(attempts)):
                raise ValueError(f"problem {name}: {correct} correct of {attempts} attempts")
        return cls(float(discount), pairs)
