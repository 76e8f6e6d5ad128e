"""Published sets' layouts, and that no problem trained on is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from paced_megatron.config import ProblemsConfig, Source
from paced_megatron.config.problems import ProblemFormat
from paced_megatron.errors import UserError
from paced_megatron.problems.formats import FORMATS
from paced_megatron.problems.lists import read_problem_lists, shared_problems
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem

# DAPO's wording, which tells a raw prompt from a problem.
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dapo(index: str, text: str, answer: str) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": BEFORE + text + AFTER}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def test_the_configuration_names_every_format() -> None:
    assert set(get_args(ProblemFormat)) == set(FORMATS)


def test_dapo_is_read_without_its_instruction_and_its_repeats(tmp_path: Path) -> None:
    one, two = "If $x+1=3$, find\n\n$x$.", "Answer: what is 2+2?"
    path = write(
        tmp_path / "dapo.jsonl",
        dapo("u1", one, "2"),
        dapo("u2", two, "4"),
        dapo("u1", one, "2"),
        dapo("u3", two, "4"),
    )
    assert load_problems(path, format="dapo_math") == [Problem("u1", one, "2"), Problem("u2", two, "4")]


def test_a_text_with_two_answers_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "dapo.jsonl", dapo("a", "p", "1"), dapo("b", "q", "2"), dapo("c", "p", "3"))
    assert [problem.id for problem in load_problems(path, format="dapo_math")] == ["b"]


def test_one_id_for_two_texts_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "dapo.jsonl", dapo("a", "p", "1"), dapo("a", "q", "2"))
    with pytest.raises(UserError, match=r"dapo.jsonl:2: id 'a' is already that of another problem$"):
        load_problems(path, format="dapo_math")


def test_another_instruction_is_refused_rather_than_asked_beside_ours(tmp_path: Path) -> None:
    row = dapo("a", "p", "1")
    row["prompt"][0]["content"] = "Please answer.\n\np"
    path = write(tmp_path / "dapo.jsonl", row)
    with pytest.raises(UserError, match=r"dapo.jsonl:1: its instruction is not the one"):
        load_problems(path, format="dapo_math")


def test_the_processed_dapo_has_its_answer_in_solution(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "solution": "34",
        "extra_info": {"index": "u"},
        "reward_model": {"ground_truth": "34"},
    }
    path = write(tmp_path / "dapo.jsonl", row)
    assert load_problems(path, format="dapo_math_processed") == [Problem("u", "p", "34")]


def test_maths_answer_is_its_solutions_last_box(tmp_path: Path) -> None:
    solution = r"First $\boxed{1}$, so $\boxed{\frac{1}{\sqrt{2}}}$."
    path = write(
        tmp_path / "math.jsonl",
        {"problem": "p", "level": "Level 5", "type": "Algebra", "solution": solution},
        {"problem": "q", "level": "Level ?", "type": "Algebra", "solution": solution, "answer": "7"},
    )
    assert load_problems(path, format="math") == [
        Problem("1", "p", r"\frac{1}{\sqrt{2}}", solution, "5"),
        Problem("2", "q", "7", solution, "?"),
    ]
    write(path, {"problem": "p", "solution": "no box"})
    with pytest.raises(UserError, match=r"math.jsonl:1: the solution has no answer in \\boxed\{\}"):
        load_problems(path, format="math")


def test_math500_read_as_math_gives_the_answers_of_the_file(test_data: Path, tmp_path: Path) -> None:
    """Real solutions, nested braces and all: of 500 the box says what the file's own column says."""
    rows = [json.loads(line) for line in (test_data / "math500.jsonl").read_text().splitlines()]
    bare = [{"problem": row["problem"], "solution": row["solution"]} for row in rows]
    found = load_problems(write(tmp_path / "math.jsonl", *bare), format="math")
    whole = load_problems(test_data / "math500.jsonl", format="math500")
    assert [problem.id for problem in whole[:1]] == [rows[0]["unique_id"]]
    differ = [
        (one.answer, other.answer)
        for one, other in zip(found, whole, strict=True)
        if one.answer.replace(" ", "") != other.answer.replace(" ", "")
    ]
    assert len(differ) <= 5, differ  # the file's makers have cleaned a few


# ------------------------------------------------------------------------------------------------ overlap


@pytest.mark.parametrize(
    "other, same",
    [
        ("Find $\\frac{1}{2} + 2$ .", True),
        ("find \\(\\dfrac{1}{2}+2\\)", True),
        ("Find  $\\left.\\frac{1}{2}+2\\right.$!", False),  # a bracket is a sign; \left. leaves its full stop
        ("Find $\\frac{1}{2} - 2$.", False),
        ("Find $\\frac{1}{2} + 3$.", False),
    ],
)
def test_problems_are_the_same_where_only_their_looks_differ(other: str, same: bool) -> None:
    train, held_out = (
        Problem("t", "Find $\\frac12+2$.".replace("12", "{1}{2}"), "2.5"),
        Problem("h", other, "2.5"),
    )
    assert shared_problems([train], [held_out]) == ([("t", "h")] if same else [])


def lists(train: Path, overlap: str = "refuse", **paths: Path):
    sources = {name: Source(path) for name, path in paths.items()}
    return read_problem_lists(ProblemsConfig(train=Source(train), overlap=overlap, **sources))


def test_a_training_problem_in_math500_is_found_and_named(test_data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (test_data / "math500.jsonl").read_text().splitlines()]
    leaked = [
        {"id": f"mine-{number}", "problem": " " + rows[number]["problem"].replace(" ", "  "), "answer": "1"}
        for number in (3, 77, 400)
    ]
    own = [{"id": "own", "problem": "What is 17 + 25?", "answer": "42"}]
    train = write(tmp_path / "train.jsonl", *own, *leaked)
    config = ProblemsConfig(
        train=Source(train), test=Source(test_data / "math500.jsonl"), test_format="math500"
    )
    with pytest.raises(UserError) as caught:
        read_problem_lists(config)
    pairs = ", ".join(f"mine-{number} is {rows[number]['unique_id']}" for number in (3, 77, 400))
    assert str(caught.value) == (
        f"problems.test has problems that are trained on: {pairs} (by their text); take them out of "
        "problems.train, or set problems.overlap=drop to have that done"
    )


def test_math500_and_aime24_have_no_problem_in_common(test_data: Path) -> None:
    math500 = load_problems(test_data / "math500.jsonl", format="math500")
    assert shared_problems(math500, load_problems(test_data / "aime24.jsonl")) == []


def test_dropping_leaves_the_others_and_says_which(tmp_path: Path) -> None:
    def row(name: str, text: str) -> dict:
        return {"id": name, "problem": text, "answer": "1"}

    train = write(tmp_path / "train.jsonl", *(row(f"t{n}", f"problem {n}") for n in range(5)))
    test = write(tmp_path / "test.jsonl", row("a", "Problem 3"), row("b", "problem 33"))
    forgetting = write(tmp_path / "forgetting.jsonl", row("c", "problem  0"), row("d", "problem 3."))
    found = lists(train, "drop", test=test, forgetting=forgetting)
    assert [problem.id for problem in found.train] == ["t1", "t2", "t4"]
    assert found.dropped == ["t3", "t0"]
    assert [len(found.test), len(found.forgetting)] == [2, 2]
    with pytest.raises(
        UserError, match=r"^problems.forgetting has problems that are trained on: t0 is c, t3 is d"
    ):
        lists(train, forgetting=forgetting)
    with pytest.raises(UserError, match=r"every problem is a held-out one too"):
        lists(train, "drop", test=train)
