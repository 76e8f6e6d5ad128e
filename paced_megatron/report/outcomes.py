"""How attempts ended, by stage and piece of work, and a few of each kind to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from paced_megatron.problems.outcome import Outcome
from paced_megatron.report.attempts import end_of, shown
from paced_megatron.report.source import Attempted, RunRecord

MOST_EXAMPLES = 8  # of each kind of outcome on one page
_PROBLEM, _GOLD = 500, 200  # characters of a problem, and of its answer

NamedRuns = tuple[str, Sequence[RunRecord]]


def outcomes(arms: Sequence[NamedRuns]) -> list[dict[str, Any]]:
    """A record for each piece of work that made attempts: how many there are of each kind, summed over seeds.

    Where an experiment's arms share what a piece of work made, or there is one arm only, it is there once,
    with an `arm` of null.
    """
    return [
        {
            "arm": arm,
            **_place(runs[0]),
            "attempts": sum(each.counts.outcomes.total() for each in runs),
            "kinds": _kinds(sum((each.counts.outcomes for each in runs), Counter())),
        }
        for arm, runs, _ in _pieces(arms)
    ]


def _kinds(counts: Counter[str]) -> dict[str, dict[str, float]]:
    """Kind -> how many attempts, and which share of all."""
    kinds = [outcome.value for outcome in Outcome]
    return {kind: {"count": counts[kind], "share": counts[kind] / counts.total()} for kind in kinds}


def examples(arms: Sequence[NamedRuns]) -> list[dict[str, Any]]:
    """Attempts to look at, up to MOST_EXAMPLES of each kind: of each piece of work one, then another.

    They are the first seed's. A problem and its answer are the run's own of training problems, and those of
    the files that it began with of held-out ones.
    """
    found: dict[str, list[list[dict[str, Any]]]] = {}  # kind -> for each piece of work its examples
    for arm, runs, run in _pieces(arms):
        work = runs[0]
        marker = run.config.problems.verifier.answer_marker
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for example in work.counts.examples(marker):
            problem = run.problem(work, example["problem_id"])
            about = {
                "problem_id": shown(example["problem_id"]),
                "problem": end_of(problem.get("problem"), _PROBLEM),
                "gold": end_of(problem.get("answer"), _GOLD),
            }
            by_kind.setdefault(example["outcome"], []).append(
                {"arm": arm, **_place(work), **example, **about}
            )
        for kind, chosen in by_kind.items():
            found.setdefault(kind, []).append(chosen)
    return [
        example for outcome in Outcome for example in _in_turns(found.get(outcome.value, []))[:MOST_EXAMPLES]
    ]


def _in_turns(groups: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each group, then the second of each, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[at] for at in range(longest) for group in groups if at < len(group)]


def _place(work: Attempted) -> dict[str, Any]:
    return {
        "stage": work.stage,
        "phase": work.phase,
        "step": work.step,
        "problem_set": work.problem_set,
        "decoding": work.decoding,
    }


def _pieces(arms: Sequence[NamedRuns]) -> Iterator[tuple[str | None, list[Attempted], RunRecord]]:
    """(arm, the same piece of work in each of its runs, the first run); once, without an arm, what all arms
    have alike."""
    by_arm = [(arm, runs[0], _by_key(runs)) for arm, runs in arms]
    keys = dict.fromkeys(key for _, _, pieces in by_arm for key in pieces)
    for key in keys:
        having = [(arm, run, pieces[key]) for arm, run, pieces in by_arm if key in pieces]
        shared = len(having) == len(by_arm) and all(having[0][2] == works for _, _, works in having[1:])
        for arm, run, works in having[:1] if shared else having:
            yield None if shared else arm, works, run


def _by_key(runs: Sequence[RunRecord]) -> dict[tuple[Any, ...], list[Attempted]]:
    pieces: dict[tuple[Any, ...], list[Attempted]] = {}
    for run in runs:
        for work in run.attempted:
            pieces.setdefault(work.key, []).append(work)
    return pieces
