"""What a teacher sees beside the problem: a template of its user turn, with slots.

Where such contexts come from is in docs/self_distillation.md; the prompts made of them are in
`teacher_prompts.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from paced_megatron.problems.outcome import Outcome

if TYPE_CHECKING:
    from paced_megatron.config import StageConfig
    from paced_megatron.problems.problem import Problem
    from paced_megatron.rollout.attempts import Attempt

SLOTS = ("problem", "answer", "solution", "attempt", "feedback")
OF_ATTEMPTS = {"attempt", "feedback"}  # known only where the student's own rollouts are trained on
FROM_SOLUTION = {"solution", "attempt"}  # an attempt falls back on the solution

# name in `teacher_context` -> the teacher's user turn; none: the student's own.
CONTEXTS = {
    "none": "",
    "answer": (
        "{problem}\n\nThe final answer is known to be right.\nAnswer: {answer}\n\nMake sure that you see "
        "why. Then derive it yourself, step by step and in your own words, as if nobody had told you."
    ),
    "solution": (
        "{problem}\n\nA solution that is known to be right:\n\n{solution}\n\nUnderstand it first. Then solve "
        "the problem yourself, step by step and in your own words, and arrive at the same final answer."
    ),
}

_SLOT = re.compile(r"\{(" + "|".join(SLOTS) + r")\}")
VERDICTS = {True: "correct", False: "incorrect"}
# Some chat templates open the thought in the prompt, so that the attempt has only its end.
_THOUGHT = re.compile(r"(?:\A|<think>)(?:(?!<think>).)*?</think>\s*", re.DOTALL)


def context_template(stage: StageConfig) -> str:
    """The stage's template of the teacher's user turn; "" where the teacher sees what the student does."""
    chosen = stage.teacher_context
    if chosen is None:
        chosen = "none" if stage.teacher == "model" else "answer"
    return CONTEXTS.get(chosen, chosen)


def slots_in(template: str) -> set[str]:
    """Which slots a template has."""
    return set(_SLOT.findall(template))


def misspelt_slot(template: str) -> tuple[str, str] | None:
    """A word in braces that is nearly a slot, and that slot. Other braces are LaTeX's."""
    for word in re.findall(r"\{\s*(\w+)\s*\}", _SLOT.sub("", template)):
        near = difflib.get_close_matches(word.lower(), SLOTS, n=1, cutoff=0.75)
        if near:
            return word, near[0]
    return None


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its slots filled, in one pass: braces in what is filled in stay as they are."""
    return _SLOT.sub(lambda slot: values[slot.group(1)], template)


def shown_attempt(problem: Problem, attempt: Attempt, peers: Iterable[Attempt]) -> str:
    """A correct attempt at the same problem, never the one at hand: the next one by index, around the end;
    without one, the solution. Thoughts are left out (docs/self_distillation.md)."""
    others = [peer for peer in peers if peer.outcome is Outcome.CORRECT and peer.index != attempt.index]
    if not others:
        return problem.solution or ""
    chosen = min(others, key=lambda peer: (peer.index < attempt.index, peer.index))
    return _THOUGHT.sub("", chosen.text)


def feedback(attempt: Attempt) -> str:
    """What is said of the attempt that is scored."""
    return VERDICTS[attempt.outcome is Outcome.CORRECT]
