"""Accuracy before and after, over all problems and by group, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paced_megatron.evaluation.accuracy import FORGETTING, GREEDY, SAMPLED, TEST, EvaluationRow
from paced_megatron.evaluation.estimates import Estimate, over_problems
from paced_megatron.report.source import RunRecord
from paced_megatron.report.statistics import over_seeds
from paced_megatron.report.table import by_number

Interval = Callable[[Sequence[float], tuple[float, float]], Estimate]
NamedRuns = tuple[str, Sequence[RunRecord]]

_KINDS = ((TEST, SAMPLED), (TEST, GREEDY), (FORGETTING, SAMPLED), (FORGETTING, GREEDY))
_STRATA = ("always", "frontier", "never")  # from what the initial student could do best


@dataclass(frozen=True)
class Group:
    """Which problems: `kind` is "all", "stratum" or "level"."""

    problem_set: str
    decoding: str
    kind: str
    name: str


def measures(arms: Sequence[NamedRuns]) -> list[dict[str, Any]]:
    """A record per problem set, decoding and group: accuracy before, and of each arm after, and its gain.

    Intervals are Student's t over seeds where there are two or more. For a single run they are a bootstrap
    over problems; by level there is none then, since a run's folder doesn't say which level a test problem
    has.
    """
    found = []
    for group in _groups(arms[0][1][0]):
        entries = [{"arm": arm, **_before_after(runs, group)} for arm, runs in arms]
        row = _row(arms[0][1][0], group, "first")
        found.append(
            {
                "problem_set": group.problem_set,
                "decoding": group.decoding,
                "group": group.kind,
                "name": group.name,
                "problems": _problems(row, group),
                "attempts": row.attempts,
                "before": entries[0]["before"],
                "arms": entries,
            }
        )
    return found


def _groups(run: RunRecord) -> list[Group]:
    """All that the measurements before and after have in common."""
    groups = []
    for kind in _KINDS:
        whole = Group(*kind, "all", "all")
        if not _has(run, whole):
            continue
        row = _row(run, whole, "first")
        strata = [name for name in _STRATA if name in row.accuracy_by_stratum]
        levels = sorted(row.accuracy_by_level, key=by_number)
        groups.append(whole)
        groups += [Group(*kind, "stratum", name) for name in strata]
        groups += [Group(*kind, "level", name) for name in levels]
    return groups


def _before_after(runs: Sequence[RunRecord], group: Group) -> dict[str, Any]:
    if len(runs) > 1:
        before = [_accuracy(_row(run, group, "first"), group) for run in runs]
        after = [_accuracy(_row(run, group, "last"), group) for run in runs]
        return _estimates(over_seeds, before, after) | {"seeds": after}
    if group.kind == "level":
        first, last = (_accuracy(_row(runs[0], group, end), group) for end in ("first", "last"))
        plain = (asdict(Estimate(value, None, None, 1)) for value in (first, last, last - first))
        return dict(zip(("before", "after", "gain"), plain, strict=True)) | {"seeds": [last]}
    shares_before, shares_after = (_shares(runs[0], group, end) for end in ("first", "last"))
    problems = [problem for problem in shares_before if problem in shares_after]
    estimates = _estimates(
        over_problems, [shares_before[each] for each in problems], [shares_after[each] for each in problems]
    )
    return estimates | {"seeds": [estimates["after"]["mean"]]}


def _estimates(interval: Interval, before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    gain = [later - earlier for earlier, later in zip(before, after, strict=True)]
    return {
        "before": asdict(interval(before, (0.0, 1.0))),
        "after": asdict(interval(after, (0.0, 1.0))),
        "gain": asdict(interval(gain, (-1.0, 1.0))),
    }


def _has(run: RunRecord, group: Group) -> bool:
    keys = {row.key for row in run.rows}
    return all((*end, group.problem_set, group.decoding) in keys for end in (run.first, run.last))


def _row(run: RunRecord, group: Group, end: str) -> EvaluationRow:
    place = run.first if end == "first" else run.last
    key = (*place, group.problem_set, group.decoding)
    return next(row for row in run.rows if row.key == key)


def _accuracy(row: EvaluationRow, group: Group) -> float:
    if group.kind == "all":
        return row.accuracy
    return (row.accuracy_by_stratum if group.kind == "stratum" else row.accuracy_by_level)[group.name]


def _problems(row: EvaluationRow, group: Group) -> int | None:
    """How many there are; by level no file says it."""
    return {"all": row.problems, "stratum": row.problems_by_stratum.get(group.name)}.get(group.kind)


def _shares(run: RunRecord, group: Group, end: str) -> dict[str, float]:
    """Problem -> share of its attempts that are correct."""
    return {
        problem: correct / attempts
        for problem, (correct, attempts) in run.correct(_row(run, group, end).key).items()
        if group.kind == "all" or run.strata.get(problem) == group.name
    }
