"""The verdict on an attempt: a wrong score is a wrong weight, so each attempt ends as exactly one Outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paced_megatron.config import VerifierConfig
from paced_megatron.problems.answers import final_answer
from paced_megatron.problems.math_equal import judge_math
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.problem import Problem

__all__ = ["VERIFIERS", "Outcome", "score", "score_all"]


def judge_exact(answer: str, gold: str, timeout_s: float) -> Outcome:
    """CORRECT if and only if both are the same text, spaces around it aside."""
    return Outcome.CORRECT if answer.strip() == gold.strip() else Outcome.INCORRECT


# kind -> (the attempt's answer, the problem's answer, seconds allowed) -> Outcome. Neither answer is empty.
VERIFIERS: Mapping[str, Callable[[str, str, float], Outcome]] = {
    "exact": judge_exact,
    "math": judge_math,
}


def score(text: str, problem: Problem, finish_reason: str, verifier: VerifierConfig) -> Outcome:
    """How the attempt `text` at `problem` ended. finish_reason: "stop" or "length" (ran into max_new_tokens).

    A truncated attempt is TRUNCATED whatever it says: the student did not finish within its budget. The
    answer is what follows the last verifier.answer_marker, or where no marker is set the content of the last
    box; an attempt without it is UNPARSABLE. Nothing is ever CORRECT against an empty answer. The kind "math"
    works in the main thread only.
    """
    if finish_reason == "length":
        return Outcome.TRUNCATED
    if finish_reason != "stop":
        raise ValueError(f"problem {problem.id}: finish reason {finish_reason!r} is neither stop nor length")
    answer = final_answer(text, verifier.answer_marker)
    if answer is None:
        return Outcome.UNPARSABLE
    if not problem.answer.strip():
        return Outcome.INCORRECT
    return VERIFIERS[verifier.kind](answer, problem.answer, verifier.timeout_s)


def score_all(
    texts: Sequence[str], problems: Sequence[Problem], finish_reasons: Sequence[str], verifier: VerifierConfig
) -> list[Outcome]:
    """score() for each attempt: texts[i] at problems[i]. As many outcomes as attempts, in their order."""
    if not len(texts) == len(problems) == len(finish_reasons):
        counts = f"{len(texts)} texts, {len(problems)} problems, {len(finish_reasons)} finish reasons"
        raise ValueError(f"one of each for every attempt, not {counts}")
    outcomes = [
        score(text, problem, finish_reason, verifier)
        for text, problem, finish_reason in zip(texts, problems, finish_reasons, strict=True)
    ]
    if len(outcomes) != len(texts):
        raise RuntimeError(f"{len(outcomes)} outcomes for {len(texts)} attempts")
    return outcomes
