"""Files of attempts: counted, and a few of each kind chosen to be shown, whatever a model has written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hand_made_runs import lines
from paced_megatron.errors import UserError
from paced_megatron.report.attempts import PER_KIND, attempt_counts, shown


def attempt(problem: str, index: int, outcome: str, text: str = "x", reason: str = "stop") -> dict:
    return {
        "problem_id": problem, "index": index, "token_ids": [1, 2, 3], "text": text, "finish_reason": reason,
        "outcome": outcome, "seed": 1, "weight_version": "v",
    }  # fmt: skip


def test_attempts_are_counted_by_kind_and_by_problem_over_all_files(tmp_path: Path):
    lines(tmp_path / "1", [attempt("a", 0, "correct"), attempt("a", 1, "truncated")])
    lines(tmp_path / "2", [attempt("a", 2, "correct"), attempt("b", 0, "timed_out")])
    found = attempt_counts(tmp_path / "1", tmp_path / "2")
    assert found.outcomes == {"correct": 2, "truncated": 1, "timed_out": 1}
    assert found.correct == {"a": (2, 3), "b": (0, 1)}


def test_the_examples_are_the_same_whatever_the_order_of_the_lines(tmp_path: Path):
    records = [attempt(f"p{number}", 0, "incorrect") for number in range(40)]
    chosen = set()
    for seed in range(5):
        random.Random(seed).shuffle(records)
        lines(tmp_path / "f", records)
        examples = list(attempt_counts(tmp_path / "f").examples(None))
        assert len(examples) == PER_KIND
        chosen.add(tuple(each["problem_id"] for each in examples))
    assert len(chosen) == 1
    assert chosen != {("p0", "p1")}


def test_the_answer_is_the_one_that_the_verifier_read_also_where_it_is_not_shown(tmp_path: Path):
    text = r"I say \boxed{7}. " + "and on. " * 100_000 + "The end"
    lines(tmp_path / "f", [attempt("a", 0, "incorrect", text), attempt("b", 0, "truncated", text, "length")])
    incorrect, truncated = attempt_counts(tmp_path / "f").examples(None)
    assert incorrect["answer"] == "7"
    assert truncated["answer"] is None  # it was never asked for one
    assert text.startswith(incorrect["head"]) and text.endswith(incorrect["tail"])
    assert len(incorrect["head"]) + incorrect["left_out"] + len(incorrect["tail"]) == len(text)
    assert len(json.dumps(incorrect)) < 2000
    lines(tmp_path / "g", [attempt("a", 0, "incorrect", "12 # 13")])
    assert [each["answer"] for each in attempt_counts(tmp_path / "g").examples("#")] == ["13"]


def test_what_no_page_can_hold_is_replaced_and_all_other_text_is_left():
    assert shown("a\x00b\x1b[31m\ud800c\x7f") == "a\ufffdb\ufffd[31m\ufffdc\ufffd"
    assert shown("one\r\ntwo\tthree\n") == "one\ntwo\tthree\n"
    assert shown("∑ 漢字 العربية 😀") == "∑ 漢字 العربية 😀"


@pytest.mark.parametrize("line", ["{", "[]", '{"outcome": "right", "text": ""}', '{"text": "x"}'])
def test_a_line_that_is_no_attempt_is_named_and_a_torn_last_one_left_out(tmp_path: Path, line: str):
    lines(tmp_path / "f", [attempt("a", 0, "correct")])
    whole = (tmp_path / "f").read_text()
    (tmp_path / "f").write_text(whole + line)
    assert attempt_counts(tmp_path / "f").outcomes == {"correct": 1}
    (tmp_path / "f").write_text(whole + line + "\n")
    with pytest.raises(UserError, match="f:2: not an attempt"):
        attempt_counts(tmp_path / "f")
