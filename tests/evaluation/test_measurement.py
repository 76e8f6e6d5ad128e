"""From attempts to numbers, and tables of several models."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from paced_megatron.errors import UserError
from paced_megatron.evaluation.comparison import (
    heading,
    markdown,
    rows,
    terminal_outcomes,
    terminal_table,
    write_comparison,
)
from paced_megatron.evaluation.estimates import paired
from paced_megatron.evaluation.measurement import (
    RESULT,
    Measurement,
    by_problem_id,
    numbers,
    read_measurements,
    values_by_problem,
)
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import Attempt

RIGHT, WRONG, NONE, CUT = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNPARSABLE, Outcome.TRUNCATED
Answers = list[tuple[Outcome, str]]


def attempts(**problems: Answers) -> list[Attempt]:
    return [
        Attempt(problem, index, (1, 2), text, "length" if outcome is CUT else "stop", outcome, 0, "w")
        for problem, answers in problems.items()
        for index, (outcome, text) in enumerate(answers)
    ]


def boxed(outcome: Outcome, answer: str) -> tuple[Outcome, str]:
    return outcome, rf"so \boxed{{{answer}}}"


TWO = attempts(
    # Two say 2 (in two spellings that the verifier takes as equal), two say 3, in two spellings of one text.
    a=[boxed(RIGHT, "2"), boxed(RIGHT, "4/2"), boxed(WRONG, "3"), boxed(WRONG, "$3$")],
    # One is right; three would outvote it, had they a vote.
    b=[boxed(RIGHT, "7"), boxed(CUT, "8"), boxed(CUT, "8"), boxed(NONE, "8")],
)


VOTES = {"a": [2], "b": []}  # for each of the wrong answers


def test_each_problem_has_its_avg_pass_and_maj() -> None:
    values = values_by_problem(by_problem_id(TWO), (1, 4), VOTES)
    assert values["avg@4"] == {"a": 0.5, "b": 0.25}
    assert values["pass@4"] == {"a": 1.0, "b": 1.0}
    assert values["maj@4"] == {"a": 0.5, "b": 1.0}
    assert values["pass@1"] == values["maj@1"] == values["avg@4"]


def test_outcomes_are_counted_and_more_than_a_twentieth_truncated_is_warned_of() -> None:
    found = numbers(TWO, (4,), VOTES)
    assert found["outcomes"] == {
        "correct": 3,
        "incorrect": 2,
        "unparsable": 1,
        "truncated": 2,
        "timed_out": 0,
    }
    assert sum(found["outcomes"].values()) == len(TWO)
    assert found["warnings"] == [
        "25% of the attempts are truncated: raise --max-new-tokens, or the numbers come out too low"
    ]
    few = attempts(a=[boxed(RIGHT, "2")] * 19 + [boxed(CUT, "2")])
    assert numbers(few, (), {})["warnings"] == []


def measurement(target: str, made: list[Attempt], **fields) -> Measurement:
    told = {
        "target": target,
        "folder": f"/models/{target}",
        "weights": "w",
        "benchmark": "own",
        "title": "own",
        "source": "own.jsonl",
        "total_problems": 9,
        "attempts": 4,
        "preset": "paper",
        "preset_source": "PACED",
        "preset_changed": ["attempts 4 in place of 8"],
        "sampling": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_new_tokens": 64},
        "prompts": {"chat_template_kwargs": {"enable_thinking": False}},
        "verifier": {"kind": "math", "answer_marker": None},
        "seed": 1,
        "engine": "embedded",
    } | fields
    return Measurement(**told, **numbers(made, (4,), VOTES))


def test_a_result_is_read_back_as_it_was_and_a_broken_one_is_named(tmp_path: Path) -> None:
    one = measurement("student", TWO)
    path = tmp_path / "own" / "paper-0" / RESULT
    path.parent.mkdir(parents=True)
    path.write_text(one.to_json())
    assert read_measurements(tmp_path) == [one]
    path.write_text('{"metrics": {}}')
    with pytest.raises(UserError, match=r"result\.json: not a result of this version"):
        read_measurements(tmp_path)


def student_and_teacher() -> list[Measurement]:
    better = [replace(attempt, outcome=RIGHT) if attempt.index == 3 else attempt for attempt in TWO]
    return [measurement("student", TWO), measurement("teacher|x", better)]


def test_the_second_model_is_compared_with_the_first_in_pairs() -> None:
    student, teacher = student_and_teacher()
    found = {(row.metric, row.target): row for row in rows([student, teacher])}
    assert found["avg@4", "student"].difference is None
    difference = found["avg@4", "teacher|x"].difference
    assert difference == paired(student.by_problem["avg@4"], teacher.by_problem["avg@4"])
    assert difference is not None and difference.mean == pytest.approx(0.25)
    assert [row.metric for row in rows([student, teacher])] == [
        metric for metric in ("avg@4", "pass@4", "maj@4") for _ in range(2)
    ]


def test_every_number_is_shown_with_how_it_was_made() -> None:
    (line,) = heading(student_and_teacher())
    assert line == (
        "own: 2 of 9 problems x 4 attempts; preset paper (PACED; changed: attempts 4 in place of 8): T 0.7, "
        "top_p 0.8, top_k 20, 64 new tokens, no thinking; embedded; seed 1"
    )


def test_text_markdown_and_json_say_the_same(tmp_path: Path) -> None:
    measurements = student_and_teacher()
    console = Console(width=100, record=True, file=StringIO())
    console.print(terminal_table(measurements))
    text, document = console.export_text(), markdown(measurements)
    write_comparison(tmp_path / "new", measurements)
    record = json.loads((tmp_path / "new" / "results.json").read_text())
    assert (tmp_path / "new" / "results.md").read_text() == document
    assert r"| own | avg@4 | teacher\|x | 62.5 [50.0, 75.0] | +25.0 [-] |" in document
    assert "62.5 [50.0, 75.0]" in text and "+25.0 [-]" in text and "minus student" in text
    (row,) = [row for row in record["rows"] if (row["metric"], row["target"]) == ("avg@4", "teacher|x")]
    assert (row["estimate"]["mean"], row["difference"]["mean"]) == (0.625, 0.25)
    assert "**Warning**: own, student: 25% of the attempts are truncated" in document
    assert "by_problem" not in record["measurements"][0]
    assert terminal_outcomes(measurements)[0] == (
        "own, student: 8 attempts, 37.5 % correct, 25.0 % incorrect, 12.5 % unparsable, 25.0 % truncated; "
        "2 tokens each"
    )


def test_a_name_with_brackets_or_colons_stands_in_the_table_as_it_is() -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(terminal_table([measurement("run[a]", TWO), measurement("b:smile:", TWO, title="own[x]")]))
    text = console.export_text()
    assert "run[a]" in text and "minus run[a]" in text and "b:smile:" in text and "own[x]" in text


def test_one_model_has_no_column_of_differences() -> None:
    document = markdown([measurement("student", TWO)])
    assert "| benchmark | metric | model | % |\n" in document and "| minus" not in document
