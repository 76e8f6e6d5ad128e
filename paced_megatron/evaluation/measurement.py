"""From a benchmark's attempts to its numbers: result.json."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.evaluation.estimates import (
    Estimate,
    avg_at,
    maj_at,
    over_problems,
    pass_at,
    sampling_error,
)
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt, outcome_counts, outcome_warnings

RESULT = "result.json"
# What to look at in `paced evaluate` where outcomes are odd.
REMEDIES = {
    Outcome.TRUNCATED.value: "raise --max-new-tokens, or the numbers come out too low",
    Outcome.UNPARSABLE.value: "no answer is found in them; does the model box one? See --prompts-of",
    Outcome.TIMED_OUT.value: "the verifier ran out of time; is the machine busy?",
}


@dataclass(frozen=True)
class Measurement:
    """A model on a benchmark; its fields are the keys of result.json.

    Attributes:
        target, folder, weights: the model's name in tables, its folder, and the fingerprint of that.
        benchmark, title, source: which problems, and from where.
        problems, attempts, total_problems: how many problems, attempts at each (K), and problems the set has.
        preset, preset_source, preset_changed: the row of PRESETS, whose it is, and what was changed of it.
        sampling, prompts, verifier, seed, engine: how they were attempted and scored.
        metrics: "avg@8", "pass@4", "maj@8" -> mean over problems in [0, 1], and its 95 % interval over them.
        sampling_error: standard error of avg@k at fixed problems; None for one attempt.
        outcomes: attempts by kind; `tokens`: of all of them; `warnings`: what is odd about them.
        by_problem: metric -> problem id -> its own value.
    """

    target: str
    folder: str
    weights: str
    benchmark: str
    title: str
    source: str
    problems: int
    total_problems: int
    attempts: int
    preset: str
    preset_source: str
    preset_changed: list[str]
    sampling: dict[str, Any]
    prompts: dict[str, Any]
    verifier: dict[str, Any]
    seed: int
    engine: str
    metrics: dict[str, Estimate]
    sampling_error: float | None
    outcomes: dict[str, int]
    tokens: int
    warnings: list[str]
    by_problem: dict[str, dict[str, float]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def by_problem_id(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Problem id -> its attempts, both in their order."""
    of_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        of_problem[attempt.problem_id].append(attempt)
    return dict(of_problem)


def values_by_problem(
    attempts: Mapping[str, Sequence[Attempt]], pass_at_ks: Sequence[int], wrong: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Metric -> problem id -> value: avg@K, pass@k and maj@k of each problem's attempts.

    Args:
        attempts: problem id -> all attempts at it; to maj@k all correct ones give one answer.
        wrong: problem id -> the votes for each of its other answers (`votes.wrong_votes`).
    """
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for problem, made in attempts.items():
        correct, total = sum(attempt.outcome is Outcome.CORRECT for attempt in made), len(made)
        values[f"avg@{total}"][problem] = avg_at(correct, total)
        for k in pass_at_ks:
            values[f"pass@{k}"][problem] = pass_at(correct, total, k)
        for k in pass_at_ks:
            values[f"maj@{k}"][problem] = maj_at(correct, wrong[problem], total, k)
    return dict(values)


def numbers(
    attempts: Sequence[Attempt], ks: Sequence[int], wrong: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The fields of a Measurement that come from its attempts; `wrong` as in `values_by_problem`."""
    of_problem = by_problem_id(attempts)
    by_problem = values_by_problem(of_problem, ks, wrong)
    counts = [
        (sum(attempt.outcome is Outcome.CORRECT for attempt in made), len(made))
        for made in of_problem.values()
    ]
    return {
        "problems": len(of_problem),
        "metrics": {name: over_problems(list(of.values())) for name, of in by_problem.items()},
        "sampling_error": sampling_error(counts),
        "outcomes": outcome_counts(attempts),
        "tokens": sum(len(attempt.token_ids) for attempt in attempts),
        "warnings": outcome_warnings(attempts, REMEDIES),
        "by_problem": by_problem,
    }


def read_measurements(results: Path) -> list[Measurement]:
    """All that have been written into a model's folder of results, by benchmark and preset.

    Raises:
        UserError: a file is not what `paced evaluate` writes.
    """
    return [_read(path) for path in sorted(results.glob(f"*/*/{RESULT}"))]


def _read(path: Path) -> Measurement:
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        metrics = {name: Estimate(**estimate) for name, estimate in fields["metrics"].items()}
        return Measurement(**{**fields, "metrics": metrics})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a result of this version ({error}); evaluate again, its attempts are kept"
        ) from None
