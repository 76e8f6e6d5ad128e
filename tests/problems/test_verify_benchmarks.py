"""The verifier on the real MATH-500 and AIME 2024: right on their own answers, and on no other problem's.

By default two other problems' answers for each problem; with PACED_FULL_VERIFIER=1 twenty (minutes).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from paced_megatron.config import VerifierConfig
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.math_equal import judge_value
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verify import Outcome, Verifier, score

OTHERS = 20 if os.environ.get("PACED_FULL_VERIFIER") == "1" else 2


@pytest.fixture(scope="module")
def math() -> Iterator[Verifier]:
    with Verifier(VerifierConfig(timeout_s=60)) as verifier:  # long: what is tested is no time limit
        yield verifier


@pytest.fixture(scope="module")
def math500(test_data: Path) -> list[Problem]:
    return load_problems(test_data / "math500.jsonl", {"id": "unique_id"})


@pytest.fixture(scope="module")
def aime24(test_data: Path) -> list[Problem]:
    return load_problems(test_data / "aime24.jsonl", {})


# Reference solutions that are not correct against their own answer, with the reason: none, 500 of 500 are.
FAILING: dict[str, str] = {}


@pytest.mark.parametrize("kind", ["math", "exact"])
def test_every_reference_solution_of_math500_is_correct_against_its_own_answer(
    math: Verifier, math500: list[Problem], kind: str
) -> None:
    verifier = math if kind == "math" else Verifier(VerifierConfig(kind="exact"))
    outcomes = verifier.score_many([p.solution or "" for p in math500], math500, ["stop"] * 500)
    wrong = {p.id for p, outcome in zip(math500, outcomes, strict=True) if outcome is not Outcome.CORRECT}
    assert wrong == set(FAILING)


def test_every_answer_of_aime24_is_correct_as_a_model_would_write_it(
    math: Verifier, aime24: list[Problem]
) -> None:
    assert len(aime24) == 30
    for box in (
        r"\boxed{%s}",
        r"$\boxed{\text{%s}}$.",
        r"\[\boxed{\mathbf{%s}}\]",
        r"\boxed{%s.}",
        r"\boxed{0%s}",
    ):
        outcomes = math.score_many([box % p.answer for p in aime24], aime24, ["stop"] * 30)
        assert set(outcomes) == {Outcome.CORRECT}, box


def test_the_answer_of_another_problem_of_aime24_is_never_correct(
    math: Verifier, aime24: list[Problem]
) -> None:
    pairs = [(p, other) for p in aime24 for other in aime24 if int(p.answer) != int(other.answer)]
    texts = [rf"\boxed{{{other.answer}}}" for _, other in pairs]
    outcomes = math.score_many(texts, [p for p, _ in pairs], ["stop"] * len(pairs))
    assert len(pairs) > 800
    assert set(outcomes) == {Outcome.INCORRECT}


def test_math_verify_reads_every_answer_of_a_sample_of_math500_as_equal_to_itself(
    math500: list[Problem],
) -> None:
    """The step behind the comparison as text, which would settle these: it works on real answers too."""
    sample = random.Random(0).sample(math500, 60)
    unequal = [p.id for p in sample if judge_value(p.answer, p.answer, 60.0) is not Outcome.CORRECT]
    assert unequal == []


# Pairs of answers that differ as text and agree in value, and so are rightly correct.
COINCIDENCES = {
    frozenset(pair)
    for pair in [
        ("36", r"36^\circ"),
        ("15", r"15\mbox{ cm}^2"),
        (r"\frac{1}{4}", r"\frac14"),
        ("5", "x=5"),
        ("1,-2", "-2,1"),
    ]
}


def test_another_problems_answer_is_never_correct_except_where_both_agree(
    math: Verifier, math500: list[Problem]
) -> None:
    draw = random.Random(0)
    pairs = [(p, other) for p in math500 for other in draw.sample(math500, OTHERS) if other is not p]
    texts = [other.solution or "" for _, other in pairs]
    outcomes = math.score_many(texts, [p for p, _ in pairs], ["stop"] * len(pairs))
    for (p, other), outcome in zip(pairs, outcomes, strict=True):
        agree = p.answer == other.answer or frozenset((p.answer, other.answer)) in COINCIDENCES
        assert (outcome is Outcome.CORRECT) == agree, (other.answer, p.answer)
    counts = Counter(outcomes)
    assert len(pairs) > 498 * OTHERS
    assert counts[Outcome.TIMED_OUT] == 0
    assert counts[Outcome.INCORRECT] > 0.97 * len(pairs)


def test_solutions_cut_short_never_count_as_correct_by_another_boxed_answer(math500: list[Problem]) -> None:
    for p in random.Random(0).sample(math500, 100):
        text = (p.solution or "").split(r"\boxed")[0]
        assert score(text, p, "stop", VerifierConfig()) is Outcome.UNPARSABLE
