"""Verdicts: the five outcomes, on hand-picked pairs, on hostile text, and on the real MATH-500."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import math_verify
import pytest

from paced_megatron.config import VerifierConfig
from paced_megatron.problems import math_equal, verify
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verify import Outcome, score, score_all

MATH = VerifierConfig()
EXACT = VerifierConfig(kind="exact")


def problem(answer: str) -> Problem:
    return Problem(id="p", problem="How much?", answer=answer)


def boxed(answer: str, gold: str, verifier: VerifierConfig = MATH) -> Outcome:
    return score(rf"Thus $\boxed{{{answer}}}$.", problem(gold), "stop", verifier)


EQUAL = [
    ("5", "5"),
    ("1/2", r"\frac12"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    ("0.5", r"\frac{1}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    ("10{,}000", "10000"),
    ("10,000", "10000"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\{2, 1\}", r"\{1,2\}"),
    (r"5\text{ cm}", "5"),
    ("C", r"\text{(C)}"),
    ("Evelyn", r"\text{Evelyn}"),
    ("evelyn", "Evelyn"),
    ("hlw", "lwh"),
    (r"90^\circ", "90"),
    ("2516", "2516_8"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)"),
    ("1.414214", r"\sqrt{2}"),
    ("]] ((", "]](("),  # a gold answer that cannot be read is compared as text
]
UNEQUAL = [
    ("-5", "5"),
    ("5", "5,6"),
    ("5,6", "5"),
    ("1 2", "12"),
    ("(2,1)", "(1,2)"),
    ("[1,2]", "(1,2)"),
    ("y=5", "x=5"),
    ("6+5i", "6-5i"),
    ("2516_9", "2516_8"),
    ("3.14", r"\pi"),
    (r"\text{odd}", r"\text{even}"),
    (r"\begin{pmatrix}2\\1\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("seat", "east"),
    ("7", "]](("),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_an_answer_of_equal_value_is_correct(answer: str, gold: str) -> None:
    assert boxed(answer, gold) is Outcome.CORRECT


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_an_answer_of_another_value_is_incorrect(answer: str, gold: str) -> None:
    assert boxed(answer, gold) is Outcome.INCORRECT


@pytest.mark.parametrize("answer", ["**", "]]((", r"\frac{1}{", "\x00\x01", "5" * 2_001])
def test_an_answer_that_is_no_formula_is_unparsable(answer: str) -> None:
    marker = VerifierConfig(answer_marker="####")
    assert score(f"#### {answer}", problem("5"), "stop", marker) is Outcome.UNPARSABLE


@pytest.mark.parametrize("verifier", [MATH, EXACT], ids=["math", "exact"])
@pytest.mark.parametrize("text", ["", "The answer is 5.", r"\boxed{5", r"\boxed{}", r"\boxed{5} \boxed{"])
def test_an_attempt_without_a_final_answer_is_unparsable(text: str, verifier: VerifierConfig) -> None:
    assert score(text, problem("5"), "stop", verifier) is Outcome.UNPARSABLE


@pytest.mark.parametrize("verifier", [MATH, EXACT], ids=["math", "exact"])
def test_the_last_answer_wins(verifier: VerifierConfig) -> None:
    assert score(r"\boxed{4} or \boxed{5}", problem("5"), "stop", verifier) is Outcome.CORRECT
    assert score(r"\boxed{5} or \boxed{4}", problem("5"), "stop", verifier) is Outcome.INCORRECT


@pytest.mark.parametrize("verifier", [MATH, EXACT], ids=["math", "exact"])
def test_a_truncated_attempt_is_truncated_even_with_the_right_answer_in_it(verifier: VerifierConfig) -> None:
    assert score(r"\boxed{5}", problem("5"), "length", verifier) is Outcome.TRUNCATED
    assert score("", problem("5"), "length", verifier) is Outcome.TRUNCATED


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
    # Spelling that leaves nothing on either side is no agreement.
    assert score(r"\boxed{\!} #### \!", problem(r"\,"), "stop", verifier) is not Outcome.CORRECT


def test_a_verifier_is_not_even_asked_when_the_problem_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    always = {"exact": lambda answer, gold, timeout_s: Outcome.CORRECT}
    monkeypatch.setattr(verify, "VERIFIERS", always)
    assert boxed("5", " ", EXACT) is Outcome.INCORRECT
    assert boxed("5", "6", EXACT) is Outcome.CORRECT


def test_exact_takes_the_same_text_and_nothing_else() -> None:
    assert boxed(" 12 ", "12", EXACT) is Outcome.CORRECT
    assert boxed("12.0", "12", EXACT) is Outcome.INCORRECT
    assert boxed("1", "12", EXACT) is Outcome.INCORRECT
    assert boxed("12", "1", EXACT) is Outcome.INCORRECT
    assert boxed(r"\dfrac12", r"\frac12", EXACT) is Outcome.INCORRECT
    marker = VerifierConfig(kind="exact", answer_marker="=")
    assert score("3 = 1 + 1 = 2\n", problem("2"), "stop", marker) is Outcome.CORRECT
    assert score("3 = 2 = 1 + 1", problem("2"), "stop", marker) is Outcome.INCORRECT


def test_math_reads_the_answer_after_the_marker_whatever_encloses_it() -> None:
    marker = VerifierConfig(answer_marker="Answer:")
    for text in ("0.5", "$0.5$.", r"\(\frac{1}{2}\)", r"$$1/2$$", r"\[ \dfrac12 \]", r"\boxed{0.5}"):
        assert (
            score(f"Answer: 3\nAnswer: {text}\n", problem(r"\frac{1}{2}"), "stop", marker) is Outcome.CORRECT
        )


HOSTILE = [
    "10^{10^{10}}",
    "9^{9^{9^{9}}}",
    "1000000000!",
    r"\prod_{k=1}^{10^{8}} k",
    "{" * 900 + "1" + "}" * 900,
    "(" * 900 + "1" + ")" * 900,
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_ends_within_the_limit_and_is_not_correct(answer: str) -> None:
    started = time.monotonic()
    outcome = boxed(answer, "5", VerifierConfig(timeout_s=0.4))
    assert outcome in (Outcome.TIMED_OUT, Outcome.INCORRECT, Outcome.UNPARSABLE)
    assert time.monotonic() - started < 5  # 0.4 s, and much room for a busy machine


@pytest.mark.parametrize("step", ["parse", "verify"])
def test_a_reading_or_a_comparison_that_never_ends_is_timed_out(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def sleep(*args: object, **kwargs: object) -> list[object]:
        try:
            time.sleep(6)
        except:  # noqa: E722  # somebody's code that swallows everything, and goes on
            time.sleep(6)
        return []

    monkeypatch.setattr(math_verify, step, sleep)
    started = time.monotonic()
    assert boxed("6", "5", VerifierConfig(timeout_s=0.2)) is Outcome.TIMED_OUT
    assert time.monotonic() - started < 5
    monkeypatch.undo()
    assert boxed("6", "5") is Outcome.INCORRECT  # and the next attempt is judged as ever


def test_code_in_an_answer_is_not_run(tmp_path: Path) -> None:
    target = tmp_path / "written"
    for code in (
        f"open('{target}', 'w').close()",
        f"__import__('os').system('touch {target}')",
        f"1+__import__('pathlib').Path('{target}').touch()",
    ):
        marker = VerifierConfig(answer_marker="####")
        assert score(f"#### {code}", problem("5"), "stop", marker) is not Outcome.CORRECT
        assert boxed(code, "5") is not Outcome.CORRECT
    assert not target.exists()


def test_math_in_another_thread_is_refused_rather_than_judged_without_a_limit() -> None:
    caught: list[BaseException] = []

    def judge() -> None:
        try:
            boxed("6", "5")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_score_all_gives_one_outcome_for_each_attempt_in_order() -> None:
    texts = [r"\boxed{1}", r"\boxed{2}", "none", r"\boxed{1}"]
    problems = [problem("1")] * 4
    reasons = ["stop", "stop", "stop", "length"]
    assert score_all(texts, problems, reasons, EXACT) == [
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.UNPARSABLE,
        Outcome.TRUNCATED,
    ]
    assert score_all([], [], [], EXACT) == []
    for broken in (
        (texts[1:], problems, reasons),
        (texts, problems[1:], reasons),
        (texts, problems, ["stop"]),
    ):
        with pytest.raises(ValueError, match="one of each for every attempt"):
            score_all(*broken, EXACT)


def test_outcomes_are_written_as_their_lower_case_names() -> None:
    assert [outcome.value for outcome in Outcome] == [
        "correct",
        "incorrect",
        "unparsable",
        "truncated",
        "timed_out",
    ]
    assert set(verify.VERIFIERS) == {"math", "exact"}


@pytest.fixture(scope="module")
def math500(test_data: Path) -> list[Problem]:
    return load_problems(test_data / "math500.jsonl", {"id": "unique_id"})


# Reference solutions that are not correct against their own answer, with the reason: none, 500 of 500 are.
FAILING: dict[str, str] = {}


@pytest.mark.parametrize("kind", ["math", "exact"])
def test_every_reference_solution_of_math500_is_correct_against_its_own_answer(
    math500: list[Problem], kind: str
) -> None:
    verifier = VerifierConfig(kind=kind)  # type: ignore[arg-type]
    outcomes = score_all([p.solution or "" for p in math500], math500, ["stop"] * 500, verifier)
    wrong = {p.id for p, outcome in zip(math500, outcomes, strict=True) if outcome is not Outcome.CORRECT}
    assert wrong == set(FAILING)


def test_math_verify_reads_every_answer_of_a_sample_of_math500_as_equal_to_itself(
    math500: list[Problem],
) -> None:
    """The step behind the comparison as text, which would settle these: it works on real answers too."""
    sample = random.Random(0).sample(math500, 100)
    unequal = [p.id for p in sample if math_equal._compare(p.answer, p.answer) is not Outcome.CORRECT]
    assert unequal == []


# Pairs whose answers differ as text and agree in value, and so are rightly correct.
COINCIDENCES = {("5", "x=5"), ("x=5", "5"), ("1,-2", "-2,1"), ("-2,1", "1,-2")}


def test_another_problems_answer_is_never_correct_except_where_both_agree(math500: list[Problem]) -> None:
    order = random.Random(0).sample(math500, 200)
    counts: Counter[Outcome] = Counter()
    for right, other in zip(order, order[1:] + order[:1], strict=True):
        outcome = score(other.solution or "", right, "stop", MATH)
        agree = other.answer == right.answer or (other.answer, right.answer) in COINCIDENCES
        assert (outcome is Outcome.CORRECT) == agree, (other.answer, right.answer)
        counts[outcome] += 1
    assert counts[Outcome.TIMED_OUT] == 0
    assert counts[Outcome.INCORRECT] > 190


def test_solutions_cut_short_never_count_as_correct_by_another_boxed_answer(math500: list[Problem]) -> None:
    for p in random.Random(0).sample(math500, 100):
        text = (p.solution or "").split(r"\boxed")[0]
        assert score(text, p, "stop", MATH) is Outcome.UNPARSABLE
