from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from paced_megatron.pacing import ESTIMATORS, PassRate, beta, pass_rates
from paced_megatron.problems.outcome import Outcome


@dataclass(frozen=True)
class Scored:
    problem_id: str
    outcome: Outcome


def test_every_outcome_but_correct_counts_as_a_failed_attempt() -> None:
    attempts = [Scored("a", outcome) for outcome in Outcome] + [Scored("a", Outcome.CORRECT)]
    assert pass_rates(attempts) == [PassRate("a", correct=2, attempts=6)]


def test_problems_come_in_the_order_in_which_they_first_appear_with_their_own_number_of_attempts() -> None:
    ids = ["late", "early", "late", "middle", "early", "late"]
    rates = pass_rates(Scored(problem_id, Outcome.CORRECT) for problem_id in ids)
    assert [(r.problem_id, r.attempts) for r in rates] == [("late", 3), ("early", 2), ("middle", 1)]


def test_a_problem_without_a_correct_attempt_has_a_pass_rate_too() -> None:
    assert pass_rates([Scored("a", Outcome.TRUNCATED)] * 4) == [PassRate("a", 0, 4)]


def test_outcomes_are_counted_from_the_text_in_a_file_as_well() -> None:
    assert pass_rates([Scored("a", "correct"), Scored("a", "unparsable")]) == [PassRate("a", 1, 2)]  # type: ignore[arg-type]


def test_on_the_frontier_means_solved_sometimes_but_not_always() -> None:
    rates = [PassRate("a", k, 8) for k in range(9)]
    assert [r.on_frontier for r in rates] == [False] + [True] * 7 + [False]
    assert [r.value for r in rates] == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]


@pytest.mark.parametrize(("correct", "attempts"), [(-1, 4), (5, 4), (0, 0)])
def test_a_pass_rate_that_cannot_be_is_refused(correct: int, attempts: int) -> None:
    with pytest.raises(ValueError, match="problem a"):
        PassRate("a", correct, attempts)


def test_the_plug_in_estimate_is_the_kernel_at_k_over_K() -> None:
    assert ESTIMATORS["plugin"](beta(2, 1), [])(2, 8) == pytest.approx(0.25**2 * 0.75, rel=1e-15)


def test_the_room_needs_neither_torch_nor_megatron_nor_sglang() -> None:
    code = (
        "import sys, paced_megatron.pacing; "
        "print([m for m in ('torch', 'megatron', 'sglang', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
