"""Reading problems from JSONL: what is read as what, and what is refused with which words."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem

GOOD = '{"id": "a", "problem": "1+1?", "answer": "2"}'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def refusal(path: Path, **fields: str) -> str:
    """The one line that load_problems refuses the file with."""
    with pytest.raises(UserError) as caught:
        load_problems(path, fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_all_500_problems_of_math500_are_read_in_order_with_renamed_columns(test_data: Path) -> None:
    path = test_data / "math500.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    problems = load_problems(path, {"id": "unique_id"})
    assert len(problems) == 500
    for index in random.Random(0).sample(range(500), 50):
        row = rows[index]
        expected = (row["unique_id"], row["problem"], row["answer"], row["solution"], str(row["level"]))
        problem = problems[index]
        assert (problem.id, problem.problem, problem.answer, problem.solution, problem.level) == expected


def test_aime24_is_read_without_solutions_and_levels(test_data: Path) -> None:
    problems = load_problems(test_data / "aime24.jsonl")
    assert len(problems) == 30
    assert {(problem.solution, problem.level) for problem in problems} == {(None, None)}


def test_numbers_become_text_as_the_file_spells_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"id": 7, "problem": "p", "answer": 12, "level": 3}',
        '{"id": "8", "problem": "p", "answer": 0.50, "level": "hard", "solution": null, "other": [1.5]}',
        '{"id": "9", "problem": "p", "answer": -1e400}',
    )
    assert load_problems(path) == [
        Problem("7", "p", "12", None, "3"),
        Problem("8", "p", "0.50", None, "hard"),
        Problem("9", "p", "-1e400"),
    ]
    assert all(type(problem.answer) is str for problem in load_problems(path))


def test_blank_lines_a_byte_order_mark_and_unusual_line_separators_inside_strings_are_fine(
    tmp_path: Path,
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n  \n"
        b'{"id": "b", "problem": "one\xe2\x80\xa8two", "answer": "\xc2\xbd"}\n\n'
    )
    assert load_problems(path) == [Problem("a", "1+1?", "2"), Problem("b", "one\u2028two", "½")]


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert refusal(path) == (
        f"{path}: cannot be read (No such file or directory); check problems.train and .test"
    )
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read (Is a directory)")


def test_a_file_without_problems_is_refused(tmp_path: Path) -> None:
    for lines in ((), ("", "   ", "")):
        path = write(tmp_path, *lines)
        assert refusal(path) == (
            f"{path}: no problem in it; it needs one JSON object a line, with id, problem, answer"
        )


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "latin1.jsonl"
    path.write_bytes(GOOD.encode() + b'\n\n{"id": "b", "problem": "\xe9", "answer": "1"}\n')
    assert refusal(path) == f"{path}:3: not UTF-8 (invalid continuation byte); save the file as UTF-8"


BROKEN = {
    '{"id": "b", "problem": "p", "answer" "2"}': "broken JSON: Expecting ':' delimiter at column 38",
    '{"id": "b", "problem": "p"': "broken JSON: Expecting ',' delimiter at column 27",
    '{"id": "b", "problem": "p", "answer": NaN}': "broken JSON: NaN is no JSON number",
    '{"id": "b", "problem": "\t", "answer": 1}': "broken JSON: Invalid control character at at column 25",
    "[" * 100_000: "broken JSON: maximum recursion depth exceeded",
    '["b", "p", "2"]': "a list where an object with id, problem, answer is needed",
    "3.5": "a number where an object with id, problem, answer is needed",
    "null": "null where an object with id, problem, answer is needed",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_named_with_its_number_and_reason(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, GOOD, "", line)
    assert refusal(path).startswith(f"{path}:3: {BROKEN[line]}")


@pytest.mark.parametrize("name", ["id", "problem", "answer"])
def test_a_missing_field_is_named_with_the_columns_there_are(tmp_path: Path, name: str) -> None:
    row = {"id": "b", "problem": "p", "answer": "2", "level": 1}
    missing = {key: value for key, value in row.items() if key != name}
    path = write(tmp_path, GOOD, json.dumps(missing))
    assert refusal(path) == (
        f"{path}:2: {name} is missing; the line has the columns {', '.join(missing)}; "
        f"if another one holds it, say so in problems.fields: {{{name}: COLUMN}}"
    )
    path = write(tmp_path, GOOD, json.dumps(row | {name: None}))
    assert refusal(path).startswith(f"{path}:2: {name} is null; the line has the columns id, problem, ")
    for empty in ("", " \t"):
        path = write(tmp_path, GOOD, json.dumps(row | {name: empty}))
        assert refusal(path) == f"{path}:2: {name} is empty; fill it in or leave the line out"


def test_a_missing_renamed_column_is_named_by_both_names(tmp_path: Path) -> None:
    path = write(tmp_path, '{"uid": "b", "problem": "p", "answer": "2"}', GOOD)
    assert refusal(path, id="uid").startswith(
        f"{path}:2: id (column 'uid') is missing; the line has the columns id, problem, answer; if another"
    )
    path = write(tmp_path, "{}")
    assert "the line has the columns none;" in refusal(path)


WRONG_TYPES = [
    ("id", True, "id is a boolean; it must be a text or an integer"),
    ("id", 1.5, "id is a number; it must be a text or an integer"),
    ("problem", 5, "problem is an integer; it must be a text"),
    ("problem", 2.5, "problem is a number; it must be a text"),
    ("answer", ["1", "2"], "answer is a list; it must be a text or an integer or a number"),
    ("answer", False, "answer is a boolean; it must be a text or an integer or a number"),
    ("solution", {"text": "x"}, "solution is an object; it must be a text"),
    ("level", [], "level is a list; it must be a text or an integer"),
    ("problem", "half a pair \ud83d", "problem has half a surrogate pair at character 13; remove it"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_TYPES)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, name: str, value: object, message: str) -> None:
    path = write(tmp_path, GOOD, json.dumps({"id": "b", "problem": "p", "answer": "2"} | {name: value}))
    assert refusal(path) == f"{path}:2: {message}"


def test_a_duplicate_id_is_named_with_both_lines_also_between_number_and_text(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        GOOD,
        '{"id": 5, "problem": "p", "answer": "2"}',
        "",
        '{"id": "5", "problem": "q", "answer": "3"}',
    )
    assert refusal(path) == (
        f"{path}:4: id '5' is already that of line 2; give each problem its own id, or name another column "
        "as id in problems.fields"
    )


def test_an_unknown_key_in_fields_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert refusal(path, anwser="answer") == (
        "problems.fields: unknown field 'anwser'; did you mean 'answer'? "
        "(fields: id, problem, answer, solution, level)"
    )
    assert refusal(path, unique="id").startswith(
        "problems.fields: unknown field 'unique'; it maps our name to"
    )
    assert refusal(path, id=3) == "problems.fields: id must be the name of a column, not 3"  # type: ignore[arg-type]


def test_an_optional_field_mapped_to_a_column_that_no_line_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, '{"id": "b", "problem": "p", "answer": "2", "grade": 3}')
    assert [problem.level for problem in load_problems(path, {"level": "grade"})] == [None, "3"]
    assert (
        refusal(path, level="grad")
        == f"problems.fields: level is to be column 'grad'; no line of {path} has it"
    )
