"""Verdicts: the five outcomes, which text is judged, and on hand-picked pairs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paced_megatron.config import VerifierConfig
from paced_megatron.problems import verify
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verify import Outcome, Verifier, score
from problems.pairs import PAIRS

MATH = VerifierConfig()
EXACT = VerifierConfig(kind="exact")


def problem(answer: str) -> Problem:
    return Problem(id="p", problem="How much?", answer=answer)


@pytest.fixture(scope="module")
def math() -> Iterator[Verifier]:
    with Verifier(VerifierConfig(timeout_s=60)) as verifier:  # long: what is tested is no time limit
        yield verifier


@pytest.fixture(scope="module")
def judged(math: Verifier) -> dict[tuple[str, str], Outcome]:
    """Every hand-picked pair, in one batch."""
    pairs = [(answer, gold) for rows in PAIRS.values() for answer, gold, _ in rows]
    texts = [rf"Thus $\boxed{{{answer}}}$." for answer, _ in pairs]
    outcomes = math.score_many(texts, [problem(gold) for _, gold in pairs], ["stop"] * len(pairs))
    return dict(zip(pairs, outcomes, strict=True))


def test_there_are_at_least_150_hand_picked_pairs_and_a_third_of_them_are_unequal() -> None:
    pairs = [pair for rows in PAIRS.values() for pair in rows]
    assert len({pair[:2] for pair in pairs}) == len(pairs) >= 150
    assert sum(not equal for *_, equal in pairs) >= len(pairs) / 3


@pytest.mark.parametrize("kind", PAIRS)
def test_every_hand_picked_pair_has_the_verdict_of_a_person(
    judged: dict[tuple[str, str], Outcome], kind: str
) -> None:
    wrong = [
        (answer, gold, judged[answer, gold])
        for answer, gold, equal in PAIRS[kind]
        if (judged[answer, gold] is Outcome.CORRECT) != equal or judged[answer, gold] is Outcome.TIMED_OUT
    ]
    assert wrong == []


@pytest.mark.parametrize("answer", ["**", "++", "]]((", r"\frac{1}{", "\x00\x01", "5" * 2_001])
def test_an_answer_that_is_no_formula_is_unparsable(answer: str) -> None:
    marker = VerifierConfig(answer_marker="####")
    assert score(f"#### {answer}", problem("5"), "stop", marker) is Outcome.UNPARSABLE


def exact() -> Verifier:
    return Verifier(EXACT)


@pytest.mark.parametrize("kind", ["math", "exact"])
@pytest.mark.parametrize("text", ["", "The answer is 5.", r"\boxed{5", r"\boxed{}", r"\boxed{5} \boxed{"])
def test_an_attempt_without_a_final_answer_is_unparsable(math: Verifier, text: str, kind: str) -> None:
    verifier = {"math": math, "exact": exact()}[kind]
    assert verifier.score(text, problem("5"), "stop") is Outcome.UNPARSABLE


@pytest.mark.parametrize("kind", ["math", "exact"])
def test_the_last_answer_wins(math: Verifier, kind: str) -> None:
    verifier = {"math": math, "exact": exact()}[kind]
    assert verifier.score(r"\boxed{4} or \boxed{5}", problem("5"), "stop") is Outcome.CORRECT
    assert verifier.score(r"\boxed{5} or \boxed{4}", problem("5"), "stop") is Outcome.INCORRECT


def test_a_box_may_hold_braces_to_any_depth(math: Verifier) -> None:
    text = r"\boxed{1} then \boxed{\frac{\sqrt{\frac{4}{1}}}{2^{1}}} or so}"
    assert math.score(text, problem("1"), "stop") is Outcome.CORRECT
    assert math.score(text, problem("2"), "stop") is Outcome.INCORRECT


@pytest.mark.parametrize("kind", ["math", "exact"])
def test_a_truncated_attempt_is_truncated_even_with_the_right_answer_in_it(math: Verifier, kind: str) -> None:
    verifier = {"math": math, "exact": exact()}[kind]
    assert verifier.score(r"\boxed{5}", problem("5"), "length") is Outcome.TRUNCATED
    assert verifier.score("", problem("5"), "length") is Outcome.TRUNCATED


def test_a_finish_reason_that_is_neither_stop_nor_length_is_not_scored() -> None:
    with pytest.raises(ValueError, match="problem p: finish reason 'abort'"):
        score(r"\boxed{5}", problem("5"), "abort", MATH)


@pytest.mark.parametrize("kind", ["math", "exact"])
@pytest.mark.parametrize("marker", [None, "####"])
@pytest.mark.parametrize("gold", ["", "  "])
def test_nothing_is_correct_against_an_empty_answer(kind: str, marker: str | None, gold: str) -> None:
    verifier = VerifierConfig(kind=kind, answer_marker=marker)  # type: ignore[arg-type]
    for text in ("", r"\boxed{}", r"\boxed{ }", "####", "#### ", r"\boxed{$$}", r"\boxed{\!}", r"#### \!"):
        assert score(text, problem(gold), "stop", verifier) is not Outcome.CORRECT
    assert score(r"#### \boxed{5}", problem(gold), "stop", verifier) is Outcome.INCORRECT


@pytest.mark.parametrize("answer", [r"\!", "$$", r"\text{}", "{}", "****", r"\boxed{}", "."])
def test_spelling_that_leaves_nothing_on_either_side_is_no_agreement(math: Verifier, answer: str) -> None:
    assert math.score(rf"\boxed{{{answer}}}", problem(r"\,"), "stop") is not Outcome.CORRECT


def test_a_verifier_is_not_even_asked_when_the_problem_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "VERIFIERS", {"exact": lambda answer, gold: Outcome.CORRECT})
    assert exact().score(r"\boxed{5}", problem(" "), "stop") is Outcome.INCORRECT
    assert exact().score(r"\boxed{5}", problem("6"), "stop") is Outcome.CORRECT


def test_exact_takes_the_same_text_and_nothing_else() -> None:
    def boxed(answer: str, gold: str) -> Outcome:
        return score(rf"\boxed{{{answer}}}", problem(gold), "stop", EXACT)

    assert boxed(" 12 ", "12") is Outcome.CORRECT
    assert boxed("12.0", "12") is Outcome.INCORRECT
    assert boxed("1", "12") is Outcome.INCORRECT
    assert boxed("12", "1") is Outcome.INCORRECT
    assert boxed(r"\dfrac12", r"\frac12") is Outcome.INCORRECT
    marker = VerifierConfig(kind="exact", answer_marker="=")
    assert score("3 = 1 + 1 = 2\n", problem("2"), "stop", marker) is Outcome.CORRECT
    assert score("3 = 2 = 1 + 1", problem("2"), "stop", marker) is Outcome.INCORRECT


def test_math_reads_the_answer_after_the_marker_whatever_encloses_it() -> None:
    with Verifier(VerifierConfig(answer_marker="Answer:")) as verifier:
        for text in (
            "0.5",
            "$0.5$.",
            r"\(\frac{1}{2}\)",
            r"$$1/2$$",
            r"\[ \dfrac12 \]",
            r"\boxed{0.5}",
            "**0.5**",
        ):
            attempt = f"Answer: 3\nAnswer: {text}\n"
            assert verifier.score(attempt, problem(r"\frac{1}{2}"), "stop") is Outcome.CORRECT, text


def test_score_many_gives_one_outcome_for_each_attempt_in_order() -> None:
    texts = [r"\boxed{1}", r"\boxed{2}", "none", r"\boxed{1}"]
    problems = [problem("1")] * 4
    reasons = ["stop", "stop", "stop", "length"]
    assert exact().score_many(texts, problems, reasons) == [
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.UNPARSABLE,
        Outcome.TRUNCATED,
    ]
    assert exact().score_many([], [], []) == []
    for broken in (
        (texts[1:], problems, reasons),
        (texts, problems[1:], reasons),
        (texts, problems, ["stop"]),
    ):
        with pytest.raises(ValueError, match="one of each for every attempt"):
            exact().score_many(*broken)


def test_equal_pairs_in_a_batch_have_equal_outcomes_each_in_its_place(math: Verifier) -> None:
    answers = ["x+1", "1+x", "x+2", "x+1", "1+x", "x+2"]
    texts = [rf"\boxed{{{answer}}}" for answer in answers]
    outcomes = math.score_many(texts, [problem("1+x")] * 6, ["stop"] * 6)
    assert outcomes == [Outcome.CORRECT, Outcome.CORRECT, Outcome.INCORRECT] * 2


def test_outcomes_are_written_as_their_lower_case_names() -> None:
    assert [outcome.value for outcome in Outcome] == [
        "correct",
        "incorrect",
        "unparsable",
        "truncated",
        "timed_out",
    ]
    assert set(verify.VERIFIERS) == {"math", "exact"}
