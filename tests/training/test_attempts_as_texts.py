"""The student's own attempts as texts: their weights by hand. No seed: nothing here is drawn."""

from __future__ import annotations

import pytest

from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.training.examples import Example, examples_from_attempts, tokens_of_problem

OUTCOMES = [Outcome.CORRECT, Outcome.TRUNCATED, Outcome.INCORRECT, Outcome.CORRECT, Outcome.CORRECT]


def texts(outcomes=OUTCOMES, **how) -> list[Example]:
    attempts = [
        Attempt("p", index, (index, 9), "", "stop", outcome, 0, "stage-2 step-0")
        for index, outcome in enumerate(outcomes)
    ]
    return examples_from_attempts(attempts, (1, 2), unbiased, shown, **how)


def unbiased(correct: int, attempts: int) -> float:
    """7 k(K-k) / (K(K-1)): 7 is the stage's constant."""
    return 7 * correct * (attempts - correct) / (attempts * (attempts - 1))


def shown(attempt: Attempt, attempts: list[Attempt]) -> tuple[int, ...]:
    return (attempt.index, len(attempts))


def test_all_attempts_share_the_problems_weight_the_truncated_one_too():
    found = texts()
    assert [text.response for text in found] == [(index, 9) for index in range(5)]
    assert [text.weight for text in found] == pytest.approx([7 * 3 * 2 / (5 * 4) / 5] * 5)
    assert {text.pass_rate for text in found} == {3 / 5}
    assert {text.student_prompt for text in found} == {(1, 2)}


def test_the_teachers_prompt_may_depend_on_the_attempt_and_on_the_others():
    assert [text.teacher_prompt for text in texts()] == [(index, 5) for index in range(5)]


def test_one_attempt_has_all_of_the_weight():
    (found,) = texts(train_on="one")
    assert found.response == (0, 9) and found.weight == pytest.approx(7 * 3 * 2 / (5 * 4))


def test_left_out_of_its_own_weight_an_attempt_counts_the_k_minus_1_others():
    """METHOD: w_j = k'(K-1-k') / ((K-1)(K-2)) with k' = k - r_j; here k' is 2 for a right one, else 3."""
    right, wrong = 7 * 2 * 2 / (4 * 3), 7 * 3 * 1 / (4 * 3)
    assert [text.weight for text in texts(leave_one_out=True)] == pytest.approx(
        [right / 5, wrong / 5, wrong / 5, right / 5, right / 5]
    )


def test_the_only_right_attempt_has_no_weight_by_the_others_and_stays_in_the_denominator():
    found = texts([Outcome.CORRECT, Outcome.INCORRECT, Outcome.INCORRECT], leave_one_out=True)
    assert [text.response for text in found] == [(1, 9), (2, 9)]
    assert [text.weight for text in found] == pytest.approx([7 * 1 * 1 / (2 * 1) / 3] * 2)


@pytest.mark.parametrize("outcome", [Outcome.CORRECT, Outcome.INCORRECT])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_off_the_frontier_there_is_no_text(outcome, leave_one_out):
    assert texts([outcome] * 4, leave_one_out=leave_one_out) == []


def test_a_problems_tokens_are_the_mean_over_the_texts_that_are_trained_on_whatever_they_weigh():
    attempts = [
        Attempt("p", index, (5,) * length, "", "stop", Outcome.INCORRECT, 0, "stage-2 step-0")
        for index, length in enumerate((2, 3, 7))
    ]
    assert tokens_of_problem(attempts, "all") == 4
    assert tokens_of_problem(attempts, "one") == 2
