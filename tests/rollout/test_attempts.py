from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import (
    Attempt,
    append_attempts,
    outcome_counts,
    outcome_warnings,
    read_attempts,
    recover_attempts,
)

FIRST = Attempt("a", 0, (1, 2, 3), "x = \\boxed{½}\n\u2028", "stop", Outcome.CORRECT, 2**31 - 1, "step-0")
SECOND = Attempt("a", 1, (), "", "length", Outcome.TRUNCATED, 5, "step-0")
THIRD = Attempt("ü", 0, (4,), '"quoted"', "stop", Outcome.UNPARSABLE, 6, "step-0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "stage-1" / "attempts.jsonl"
    append_attempts(file, [FIRST])
    append_attempts(file, [SECOND, THIRD])
    return file


def test_attempts_are_read_back_as_they_were_in_the_order_of_the_file(path: Path) -> None:
    assert read_attempts(path) == [FIRST, SECOND, THIRD]
    assert recover_attempts(path) == [FIRST, SECOND, THIRD]


def test_a_line_is_one_json_object_with_exactly_the_promised_keys(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 4 and lines[3] == b""
    assert json.loads(lines[0]) == {
        "problem_id": "a",
        "index": 0,
        "token_ids": [1, 2, 3],
        "text": "x = \\boxed{½}\n\u2028",
        "finish_reason": "stop",
        "outcome": "correct",
        "seed": 2**31 - 1,
        "weight_version": "step-0",
    }


def test_a_file_cut_at_any_byte_recovers_the_whole_lines_before_the_cut_and_can_be_appended_to(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, no_fsync: None
) -> None:
    content = path.read_bytes()
    everything = [FIRST, SECOND, THIRD]
    for length in range(len(content) + 1):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert recover_attempts(cut) == everything[:whole], length
        torn = length - (content[:length].rfind(b"\n") + 1)
        logged = [f"cut.jsonl: cut off a torn last line of {torn} bytes"] if torn else []
        assert [message.partition(str(tmp_path) + "/")[2] for message in caplog.messages] == logged
        append_attempts(cut, everything[whole:])
        assert cut.read_bytes() == content, length


@pytest.mark.parametrize("tail", [b'{"problem_id": "b", "ind\n', b"\0\0\0\0\n", b"\0\0\0", b"\xc3", b"\n"])
def test_a_last_line_that_is_no_json_is_cut_off(path: Path, tail: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content + tail)
    assert recover_attempts(path) == [FIRST, SECOND, THIRD]
    assert path.read_bytes() == content


def test_only_one_line_can_be_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{\n{")
    with pytest.raises(UserError, match=r"attempts\.jsonl:4: not an attempt"):
        recover_attempts(path)


def test_reading_without_recovering_refuses_a_torn_line_and_leaves_the_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])  # complete JSON, but nobody knows: the line end is missing
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"attempts\.jsonl:3: a torn last line: start the run again"):
        read_attempts(path)
    assert path.read_bytes() == before


def broken_lines() -> list[str]:
    record = json.loads(FIRST.to_json())
    return [
        "",
        "{",
        "[]",
        "null",
        json.dumps({key: value for key, value in record.items() if key != "seed"}),
        json.dumps(record | {"score": 1}),
        json.dumps(record | {"index": "0"}),
        json.dumps(record | {"index": True}),
        json.dumps(record | {"token_ids": [1, 2.0]}),
        json.dumps(record | {"outcome": "Correct"}),
    ]


@pytest.mark.parametrize("line", broken_lines())
def test_a_broken_line_that_is_not_the_last_is_named_by_file_and_number(path: Path, line: str) -> None:
    lines = path.read_text("utf-8").split("\n")
    lines[1] = line
    path.write_text("\n".join(lines), "utf-8")
    before = path.read_bytes()
    for read in (read_attempts, recover_attempts):
        with pytest.raises(UserError, match=r"attempts\.jsonl:2: not an attempt"):
            read(path)
    assert path.read_bytes() == before


def test_a_last_line_that_is_json_but_no_attempt_is_not_taken_for_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"problem_id": "b"}\n')
    with pytest.raises(UserError, match=r"attempts\.jsonl:4: not an attempt"):
        recover_attempts(path)


def test_an_attempt_that_is_there_twice_is_named_with_both_lines(path: Path) -> None:
    append_attempts(path, [dataclasses.replace(FIRST, text="another")])
    for read in (read_attempts, recover_attempts):
        with pytest.raises(UserError, match=r"attempts\.jsonl:4: attempt 0 of problem a again, as in line 1"):
            read(path)


def test_a_missing_file_is_empty_for_going_on_and_an_error_for_reading(tmp_path: Path) -> None:
    assert recover_attempts(tmp_path / "none.jsonl") == []
    with pytest.raises(UserError, match=r"none\.jsonl is missing: run `paced rollout`"):
        read_attempts(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (OSError(errno.EIO, "Input/output error"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_leaves_the_file_as_it_was(
    path: Path, error: BaseException, seen: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        assert path.stat().st_size > len(before)  # the block is there already
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(seen):
        append_attempts(path, [dataclasses.replace(FIRST, index=9)])
    assert path.read_bytes() == before


def test_a_unit_is_on_the_disk_as_a_whole_before_the_call_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    append_attempts(path, [dataclasses.replace(FIRST, index=index) for index in (7, 8, 9)])
    assert sizes == [path.stat().st_size]


def test_every_kind_of_outcome_is_counted_also_those_that_did_not_occur() -> None:
    counts = outcome_counts([FIRST, SECOND, SECOND, THIRD])
    assert counts == {"correct": 1, "incorrect": 0, "unparsable": 1, "truncated": 2, "timed_out": 0}


def of_kinds(*kinds: Outcome) -> list[Attempt]:
    return [dataclasses.replace(FIRST, index=index, outcome=kind) for index, kind in enumerate(kinds)]


def test_many_truncated_or_unparsable_attempts_are_warned_of_with_the_key_to_change() -> None:
    right = [Outcome.CORRECT] * 9
    (warning,) = outcome_warnings(of_kinds(*right, Outcome.TRUNCATED))
    assert warning.startswith("10% of the attempts are truncated") and "rollout.max_new_tokens" in warning
    (warning,) = outcome_warnings(of_kinds(*[Outcome.UNPARSABLE] * 2, Outcome.CORRECT))
    assert "67%" in warning and "problems.verifier.answer_marker" in warning


def test_outcomes_as_expected_are_not_warned_of() -> None:
    kinds = [Outcome.CORRECT] * 10 + [Outcome.INCORRECT] * 9 + [Outcome.TRUNCATED]  # 5 %, not more
    assert outcome_warnings(of_kinds(*kinds)) == []
    assert outcome_warnings([]) == []
