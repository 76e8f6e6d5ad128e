"""The votes of wrong attempts, for maj@k: two spellings of one answer are votes for one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.problems.answers import final_answer
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.runtime.files import write_atomically

VOTES = "votes.json"
# Of two attempts a wrong one never wins against a right one, whatever the wrong ones say.
COMPARED_FROM_K = 3

# (answer, gold) pairs -> the verdict on each: Verifier.judge_many
Judge = Callable[[Sequence[tuple[str, str]]], list[Outcome]]
Groups = list[list[str]]


def wrong_votes(
    attempts: Mapping[str, Sequence[Attempt]],
    ks: Sequence[int],
    answer_marker: str | None,
    judge: Judge,
    path: Path,
    check: Callable[[], None] = lambda: None,
) -> dict[str, list[int]]:
    """Problem id -> how many attempts voted for each of its wrong answers (`same_answers`).

    An attempt that is truncated, or has no answer that could be read, has no vote. Answers are compared only
    where maj@k can depend on it: some attempt is correct, and some k is above 2. Which are one answer is kept
    in `path`, so that the numbers are the same when they are told again: a comparison that runs out of time
    may not do so twice.

    Args:
        attempts: problem id -> all attempts at it.
        check: called before a problem's answers are compared; it may raise, and what was found is kept.

    Raises:
        UserError: `path` is there and not what this writes.
    """
    known = _read(path)
    kept = dict(known)
    sizes = {}
    try:
        for problem, made in attempts.items():
            votes, silent = _count(made, answer_marker)
            groups: Groups = [[answer] for answer in votes]
            some_correct = any(attempt.outcome is Outcome.CORRECT for attempt in made)
            if some_correct and len(votes) > 1 and max(ks, default=0) >= COMPARED_FROM_K:
                groups = kept.get(problem, [])
                if sorted(chain(*groups)) != sorted(votes):
                    check()
                    groups = kept[problem] = same_answers(votes, judge, silent)
            sizes[problem] = [sum(votes[answer] for answer in group) for group in groups]
    finally:  # dozens of formulas take half a minute a problem: what was found is kept where `check` ends it
        if kept != known:
            write_atomically(path, json.dumps(kept, indent=1) + "\n")
    return sizes


def same_answers(votes: Mapping[str, int], judge: Judge, apart: Collection[str] = ()) -> Groups:
    """The answers to one problem in groups of those that are one answer.

    Two are, where the verifier would take either for the other, were that the problem's. Such a relation is
    not transitive (50 and 0.5 both are 50%), so that the order decides: the answer with the most votes, of
    equals the first in the alphabet, takes to it all that are equal to it; of those left the next one does,
    and so on. No answer is in a group by being equal to anything but the group's first, and the order of the
    attempts plays no part. An answer at which the verifier runs out of time is compared no more, so that a
    problem has no more such comparisons than answers.

    Args:
        votes: answer -> how many attempts gave it.
        apart: answers that are compared with no other.
    """
    order = sorted(votes, key=lambda answer: (-votes[answer], answer))
    groups = [[answer] for answer in order if answer in apart]
    left = [answer for answer in order if answer not in apart]
    while left:
        first, *others = left
        verdicts = _compare(first, others, judge)
        groups.append([first, *(answer for answer in others if verdicts[answer] is Outcome.CORRECT)])
        groups += [[answer] for answer in others if verdicts[answer] is Outcome.TIMED_OUT]
        left = [answer for answer in others if verdicts[answer] is Outcome.INCORRECT]
    return groups


def _compare(first: str, others: Sequence[str], judge: Judge) -> dict[str, Outcome]:
    """Of each of the others: CORRECT (equal to the first), INCORRECT or TIMED_OUT."""
    decided = (Outcome.CORRECT, Outcome.TIMED_OUT)
    forth = dict(zip(others, judge([(other, first) for other in others]), strict=True))
    again = [other for other in others if forth[other] not in decided]
    back = dict(zip(again, judge([(first, other) for other in again]), strict=True))
    return {
        other: verdict if verdict in decided else Outcome.INCORRECT
        for other, verdict in (forth | back).items()
    }


def _count(made: Sequence[Attempt], answer_marker: str | None) -> tuple[Counter[str], set[str]]:
    """Wrong answer -> its votes; and those answers at which the verifier always ran out of time.

    Once more it would do so again, with each of the others.
    """
    votes: Counter[str] = Counter()
    compared = set()
    for attempt in made:
        if attempt.outcome not in (Outcome.INCORRECT, Outcome.TIMED_OUT):
            continue
        answer = final_answer(attempt.text, answer_marker)
        if answer is not None:
            votes[answer] += 1
            if attempt.outcome is Outcome.INCORRECT:
                compared.add(answer)
    return votes, set(votes) - compared


def _read(path: Path) -> dict[str, Groups]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(problem): [[str(answer) for answer in group] for group in groups]
            for problem, groups in record.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not which answers are one ({error}); delete it, and they are compared again"
        ) from None
