"""From the teacher's responses to examples: who is trained on, and with which weight."""

from __future__ import annotations

from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.training.examples import examples_from_responses


def response(problem_id: str, outcome: Outcome = Outcome.CORRECT) -> Attempt:
    return Attempt(
        problem_id=problem_id,
        index=0,
        token_ids=(7, 8),
        text="x",
        finish_reason="length" if outcome is Outcome.TRUNCATED else "stop",
        outcome=outcome,
        seed=1,
        weight_version="teacher",
    )


PROMPTS = {"a": [1, 2], "b": [3], "c": [4], "d": [5]}
WEIGHTS = {"a": 1.25, "b": 0.75, "d": 1.0}


def test_an_example_carries_the_weight_of_its_problem_and_both_prompts():
    examples = examples_from_responses([response("b"), response("a")], PROMPTS, WEIGHTS)
    assert [(example.problem_id, example.weight) for example in examples] == [("b", 0.75), ("a", 1.25)]
    assert examples[1].student_prompt == examples[1].teacher_prompt == (1, 2)
    assert examples[1].response == (7, 8)


def test_a_problem_without_a_weight_never_becomes_an_example():
    assert examples_from_responses([response("c")], PROMPTS, WEIGHTS) == []


def test_truncated_responses_are_left_out_and_wrong_ones_are_not():
    examples = examples_from_responses(
        [response("a", Outcome.TRUNCATED), response("d", Outcome.INCORRECT)], PROMPTS, WEIGHTS
    )
    assert [example.problem_id for example in examples] == ["d"]
