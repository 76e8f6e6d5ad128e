"""One text that student and teacher are compared on, with the weight of its problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paced_megatron.problems.verify import Outcome
from paced_megatron.rollout.attempts import Attempt


@dataclass(frozen=True)
class Example:
    """A response, the two prompts that it is scored under, and its weight.

    Attributes:
        problem_id: the problem that it answers.
        student_prompt, teacher_prompt: token ids before the response. They differ where the teacher sees
            more.
        response: token ids that the loss is taken on; the same for both models.
        pass_rate: of the problem, for the metrics alone; None: not known.
        weight: w_i of the problem, times the factor of this response (1/n_i where a problem has n_i of them).
    """

    problem_id: str
    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    response: tuple[int, ...]
    weight: float
    pass_rate: float | None = None


def examples_from_responses(
    responses: Sequence[Attempt],
    prompts: Mapping[str, Sequence[int]],
    weights: Mapping[str, float],
    pass_rates: Mapping[str, float] | None = None,
    teacher_prompt: Callable[[str], tuple[int, ...]] | None = None,
) -> list[Example]:
    """An example for every whole response to a problem on the frontier; truncated ones are left out.

    Args:
        responses: the teacher's, one a problem.
        prompts: token ids of every problem's prompt.
        weights: w_i of the problems on the frontier (pacing); a problem without one never reaches a forward
            pass.
        pass_rates: of the problems, for the metrics.
        teacher_prompt: problem id -> token ids before the response; None: those of `prompts`.
    """
    rates = pass_rates or {}
    return [
        Example(
            problem_id=response.problem_id,
            student_prompt=tuple(prompts[response.problem_id]),
            teacher_prompt=tuple((teacher_prompt or prompts.__getitem__)(response.problem_id)),
            response=response.token_ids,
            weight=weights[response.problem_id],
            pass_rate=rates.get(response.problem_id),
        )
        for response in responses
        if response.problem_id in weights and response.outcome is not Outcome.TRUNCATED
    ]


Weight = Callable[[float, float], float]  # (correct, attempts) -> a problem's weight, 0 where it is left out
TeacherPrompt = Callable[[Attempt, Sequence[Attempt]], tuple[int, ...]]
"""(the attempt at hand, all attempts at its problem) -> token ids"""

# Which of a problem's attempts are trained on. They are alike before they are made, so the first is any one.
TRAINED_ON: dict[str, Callable[[Sequence[Attempt]], Sequence[Attempt]]] = {
    "all": lambda attempts: attempts,
    "one": lambda attempts: attempts[:1],
}


def tokens_of_problem(attempts: Sequence[Attempt], train_on: str) -> float:
    """Response tokens of one problem, the mean over its texts, whatever it weighs; for a mean over tokens."""
    texts = TRAINED_ON[train_on](attempts)
    return sum(len(attempt.token_ids) for attempt in texts) / len(texts)


def examples_from_attempts(
    attempts: Sequence[Attempt],
    prompt: Sequence[int],
    weight: Weight,
    teacher_prompt: TeacherPrompt,
    *,
    train_on: str = "all",
    leave_one_out: bool = False,
) -> list[Example]:
    """The student's own attempts at one problem as texts, w_i / n_i each; none where its weight is 0.

    A truncated attempt is a failure for the pass rate, and a text all the same: its tokens are the student's,
    and leaving it out would train on short attempts alone.

    Args:
        attempts: all K of them, by the weights that are about to be trained.
        prompt: token ids of the problem's prompt.
        train_on: a row of TRAINED_ON.
        leave_one_out: an attempt's weight follows from the other K - 1, so that it does not depend on its own
            outcome (docs/on-policy.md).
    """
    right = [attempt.outcome is Outcome.CORRECT for attempt in attempts]
    correct, total = sum(right), len(attempts)
    weights = {
        attempt.key: weight(correct - solved, total - 1) if leave_one_out else weight(correct, total)
        for attempt, solved in zip(attempts, right, strict=True)
    }
    texts = TRAINED_ON[train_on](attempts)
    return [
        Example(
            problem_id=attempt.problem_id,
            student_prompt=tuple(prompt),
            teacher_prompt=teacher_prompt(attempt, attempts),
            response=attempt.token_ids,
            weight=weights[attempt.key] / len(texts),
            pass_rate=correct / total,
        )
        for attempt in texts
        if weights[attempt.key] > 0
    ]
