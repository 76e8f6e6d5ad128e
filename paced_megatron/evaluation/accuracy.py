"""Accuracy on held-out problems: avg@k with its standard error, a row per measurement in evaluation.json."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt, outcome_counts
from paced_megatron.runtime.files import write_atomically


@dataclass(frozen=True)
class EvaluationRow:
    """One measurement.

    Attributes:
        stage: the stage that the student is in, from 1; `step`: optimizer steps of this stage that it has
            behind it.
        accuracy: avg@k in [0, 1]: mean over problems of the share of their k attempts that are correct.
        standard_error: of `accuracy` over problems: sample deviation of the problems' shares /
            sqrt(problems).
        problems, attempts: how many problems, and attempts at each (k).
        outcomes: attempts by kind (correct, incorrect, unparsable, truncated, timed_out).
        accuracy_by_level: accuracy by the problems' level, where they have one.
        sampling: how the attempts were sampled.
    """

    stage: int
    step: int
    weight_version: str
    accuracy: float
    standard_error: float
    problems: int
    attempts: int
    outcomes: dict[str, int]
    accuracy_by_level: dict[str, float] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)


def measure(
    attempts: Sequence[Attempt],
    levels: Mapping[str, str | None],
    *,
    stage: int,
    step: int,
    sampling: dict[str, Any],
) -> EvaluationRow:
    """The row of a measurement, from every attempt at every held-out problem.

    Args:
        attempts: at least one, the same number for each problem, all by the same weights.
        levels: problem id -> level, None where it has none.
    """
    correct: dict[str, list[bool]] = defaultdict(list)
    for attempt in attempts:
        correct[attempt.problem_id].append(attempt.outcome is Outcome.CORRECT)
    shares = {problem_id: sum(values) / len(values) for problem_id, values in correct.items()}
    by_level: dict[str, list[float]] = defaultdict(list)
    for problem_id, share in shares.items():
        level = levels.get(problem_id)
        if level is not None:
            by_level[level].append(share)
    return EvaluationRow(
        stage=stage,
        step=step,
        weight_version=attempts[0].weight_version,
        accuracy=_mean(shares.values()),
        standard_error=_standard_error(list(shares.values())),
        problems=len(shares),
        attempts=len(attempts) // len(shares),
        outcomes=outcome_counts(attempts),
        accuracy_by_level={level: _mean(values) for level, values in sorted(by_level.items())},
        sampling=sampling,
    )


def _mean(values: Any) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def _standard_error(shares: Sequence[float]) -> float:
    if len(shares) < 2:
        return math.nan
    mean = _mean(shares)
    return math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1) / len(shares))


def read_rows(path: Path) -> list[EvaluationRow]:
    """The rows of evaluation.json in the order of stage and step; none where the file is not there yet.

    Raises:
        UserError: the file is not what `add_row` writes.
    """
    if not path.is_file():
        return []
    try:
        return [EvaluationRow(**row) for row in json.loads(path.read_text())["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not an evaluation of this version ({error}); move it away to measure again"
        ) from None


def add_row(path: Path, row: EvaluationRow) -> None:
    """Put the row into evaluation.json, in place of one of the same stage and step; the file is replaced
    whole."""
    others = [other for other in read_rows(path) if (other.stage, other.step) != (row.stage, row.step)]
    rows = sorted([*others, row], key=lambda entry: (entry.stage, entry.step))
    write_atomically(path, json.dumps({"rows": [asdict(entry) for entry in rows]}, indent=2) + "\n")
