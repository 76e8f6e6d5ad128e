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

TEST, FORGETTING = "test", "forgetting"  # EvaluationRow.problem_set
SAMPLED, GREEDY = "sampled", "greedy"  # EvaluationRow.decoding


@dataclass(frozen=True)
class EvaluationRow:
    """One measurement; `key` tells which.

    Attributes:
        stage: the stage that the student is in, from 1; `step`: optimizer steps of this stage that it has
            behind it.
        problem_set: "test" (problems.test) or "forgetting" (problems.forgetting, another skill).
        decoding: "sampled" (evaluation.temperature and so on, k attempts a problem) or "greedy" (one).
        accuracy: avg@k in [0, 1]: mean over problems of the share of their k attempts that are correct.
        standard_error: of `accuracy` over problems: sample deviation of the problems' shares /
            sqrt(problems); None for one problem, which has no spread.
        problems, attempts: how many problems, and attempts at each (k).
        tokens: of all attempts together, prompts left out.
        outcomes: attempts by kind (correct, incorrect, unparsable, truncated, timed_out).
        accuracy_by_level: accuracy by the problems' level, where they have one.
        accuracy_by_stratum, problems_by_stratum: accuracy and number of problems by what the initial student
            could do: "never", "frontier", "always" (`strata.py`). A stratum without a problem is left out;
            both are empty where there are no strata, and for "forgetting".
        sampling: how the attempts were sampled.
    """

    stage: int
    step: int
    problem_set: str
    decoding: str
    weight_version: str
    accuracy: float
    standard_error: float | None
    problems: int
    attempts: int
    tokens: int
    outcomes: dict[str, int]
    accuracy_by_level: dict[str, float] = field(default_factory=dict)
    accuracy_by_stratum: dict[str, float] = field(default_factory=dict)
    problems_by_stratum: dict[str, int] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, str, str]:
        """(stage, step, problem_set, decoding): one row of each in evaluation.json, in this order."""
        return (self.stage, self.step, self.problem_set, self.decoding)


def measure(
    attempts: Sequence[Attempt],
    *,
    stage: int,
    step: int,
    problem_set: str,
    decoding: str,
    levels: Mapping[str, str | None],
    strata: Mapping[str, str],
    sampling: dict[str, Any],
) -> EvaluationRow:
    """The row of a measurement, from every attempt at every problem of the set.

    Args:
        attempts: at least one, the same number for each problem, all by the same weights.
        levels: problem id -> level, None where it has none.
        strata: problem id -> stratum; empty where there are none.
    """
    shares = shares_correct(attempts)
    by_stratum = _grouped(shares, strata)
    return EvaluationRow(
        stage=stage,
        step=step,
        problem_set=problem_set,
        decoding=decoding,
        weight_version=attempts[0].weight_version,
        accuracy=_mean(shares.values()),
        standard_error=_standard_error(list(shares.values())),
        problems=len(shares),
        attempts=len(attempts) // len(shares),
        tokens=sum(len(attempt.token_ids) for attempt in attempts),
        outcomes=outcome_counts(attempts),
        accuracy_by_level={level: _mean(values) for level, values in _grouped(shares, levels).items()},
        accuracy_by_stratum={stratum: _mean(values) for stratum, values in by_stratum.items()},
        problems_by_stratum={stratum: len(values) for stratum, values in by_stratum.items()},
        sampling=sampling,
    )


def shares_correct(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Problem id -> the share of its attempts that are correct."""
    correct: dict[str, list[bool]] = defaultdict(list)
    for attempt in attempts:
        correct[attempt.problem_id].append(attempt.outcome is Outcome.CORRECT)
    return {problem_id: sum(values) / len(values) for problem_id, values in correct.items()}


def _grouped(shares: Mapping[str, float], groups: Mapping[str, str | None]) -> dict[str, list[float]]:
    """The shares by group, the groups in alphabetical order; problems without a group are left out."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for problem_id, share in shares.items():
        group = groups.get(problem_id)
        if group is not None:
            grouped[group].append(share)
    return dict(sorted(grouped.items()))


def _mean(values: Any) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def _standard_error(shares: Sequence[float]) -> float | None:
    if len(shares) < 2:
        return None
    mean = _mean(shares)
    return math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1) / len(shares))


def read_rows(path: Path) -> list[EvaluationRow]:
    """The rows of evaluation.json in the order of their keys; none where the file is not there yet.

    Raises:
        UserError: the file is not what `add_row` writes.
    """
    if not path.is_file():
        return []
    try:
        # Earlier versions wrote NaN, which is no JSON, for the standard error of one problem.
        record = json.loads(path.read_text(), parse_constant=lambda name: None)
        return [EvaluationRow(**row) for row in record["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not an evaluation of this version ({error}); move it away to measure again"
        ) from None


def add_row(path: Path, row: EvaluationRow) -> None:
    """Put the row into evaluation.json, in place of one of the same key; the file is replaced whole."""
    others = [other for other in read_rows(path) if other.key != row.key]
    rows = sorted([*others, row], key=lambda entry: entry.key)
    write_atomically(path, json.dumps({"rows": [asdict(entry) for entry in rows]}, indent=2) + "\n")
