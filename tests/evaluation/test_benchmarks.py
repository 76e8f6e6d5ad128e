"""Which problems a benchmark has, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.evaluation.benchmarks import BENCHMARKS, DATA_VARIABLE, read_benchmark
from paced_megatron.problems.formats import FORMATS


@pytest.fixture(autouse=True)
def no_folder_of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(*arguments, **named) -> str:
    with pytest.raises(UserError) as refused:
        read_benchmark(*arguments, **named)
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("wanted", "name", "count", "answer"),
    [
        ("math500", "math500", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("MATH-500", "math500", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime24", "aime2024", 30, "204"),
    ],
)
def test_the_real_sets_are_read_by_name_from_a_folder(
    test_data: Path, wanted: str, name: str, count: int, answer: str
) -> None:
    read = read_benchmark(wanted, test_data)
    assert (read.name, len(read.problems), read.total) == (name, count, count)
    assert read.problems[0].answer == answer
    assert read.prompts.template.startswith("{problem}\n\n") and r"\boxed{}" in read.prompts.template
    assert read.verifier.kind == "math"
    assert Path(read.source).parent == test_data


def test_the_folder_may_be_named_in_the_environment_and_the_option_goes_before(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(test_data))
    assert len(read_benchmark("aime2024").problems) == 30
    assert f"--data {tmp_path}: no aime2024.jsonl" in refusal("aime2024", tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "gone"))
    assert f"${DATA_VARIABLE} {tmp_path / 'gone'}: no such folder" in refusal("aime2024")


def test_the_first_problems_alone_are_read_and_the_whole_number_is_known(test_data: Path) -> None:
    whole, part = read_benchmark("aime2024", test_data), read_benchmark("aime2024", test_data, limit=3)
    assert list(part.problems) == list(whole.problems)[:3]
    assert part.total == 30
    assert part.sha256 != whole.sha256
    assert "--limit 0" in refusal("aime2024", test_data, limit=0)


def test_aime_2025_is_read_with_ids_or_without(tmp_path: Path) -> None:
    rows = [{"problem": f"How much is {number}?", "answer": number} for number in range(1, 31)]
    write(tmp_path / "aime25.jsonl", *rows)
    read = read_benchmark("aime2025", tmp_path)
    assert [problem.id for problem in read.problems] == [str(number) for number in range(1, 31)]
    write(tmp_path / "aime2025.jsonl", *[row | {"id": f"II-{row['answer']}"} for row in rows])
    assert read_benchmark("aime2025", tmp_path).problems[0].id == "II-1"


def test_half_a_benchmark_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    write(tmp_path / "aime24.jsonl", {"problem": "How much is 1?", "answer": "1"})
    assert "has 1 problems, and AIME 2024 has 30" in refusal("aime24", tmp_path)
    assert read_benchmark(str(tmp_path / "aime24.jsonl")).total == 1


def test_without_a_folder_the_hub_is_asked_and_without_a_network_the_line_says_what_to_do() -> None:
    line = refusal("aime2025")
    assert "hf://math-ai/aime25?split=test" in line
    assert "put aime2025.jsonl into a folder and name that in --data" in line


def test_every_row_has_a_format_and_no_two_rows_share_a_name() -> None:
    assert all(row.format in FORMATS and row.hub.startswith("hf://") for row in BENCHMARKS.values())
    names = [name for row in BENCHMARKS.values() for name in row.files]
    assert len(set(names)) == len(names)
    assert all(name in row.files for name, row in BENCHMARKS.items())


def test_a_file_of_ones_own_needs_no_ids_and_may_have_other_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "own.jsonl", {"question": "1+1?", "target": "2"}, {"question": "2+2?", "target": "4"}
    )
    read = read_benchmark(str(path), fields={"problem": "question", "answer": "target"})
    assert [(one.id, one.problem, one.answer) for one in read.problems] == [
        ("1", "1+1?", "2"),
        ("2", "2+2?", "4"),
    ]
    assert (read.name, read.title) == ("own", "own")
    path = write(tmp_path / "like.jsonl", {"unique_id": "a/1", "problem": "1+1?", "answer": "2"})
    assert read_benchmark(str(path)).problems[0].id == "a/1"


def test_a_file_without_answers_is_refused_with_the_option_that_names_their_column(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", {"id": "1", "problem": "1+1?"})
    line = refusal(str(path))
    assert f"{path}:1" in line and "answer is missing" in line and "--field answer=COLUMN" in line


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("aime2026", ["--benchmark aime2026", "did you mean aime2025?"]),
        ("mmth500", ["did you mean math500?"]),
        ("xyz", ["no such benchmark or file", "known: math500"]),
        ("nowhere/own.jsonl", ["nowhere/own.jsonl: no such file"]),
    ],
)
def test_an_unknown_benchmark_is_named_with_the_nearest(wanted: str, words: list[str]) -> None:
    line = refusal(wanted)
    assert all(word in line for word in words), line
