"""One text that student and teacher are compared on, with the weight of its problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
) -> list[Example]:
    """An example for every whole response to a problem on the frontier; truncated ones are left out.

    Args:
        responses: the teacher's, one a problem.
        prompts: token ids of every problem's prompt.
        weights: w_i of the problems on the frontier (pacing); a problem without one never reaches a forward
            pass.
        pass_rates: of the problems, for the metrics.
    """
    rates = pass_rates or {}
    return [
        Example(
            problem_id=response.problem_id,
            student_prompt=tuple(prompts[response.problem_id]),
            teacher_prompt=tuple(prompts[response.problem_id]),
            response=response.token_ids,
            weight=weights[response.problem_id],
            pass_rate=rates.get(response.problem_id),
        )
        for response in responses
        if response.problem_id in weights and response.outcome is not Outcome.TRUNCATED
    ]
