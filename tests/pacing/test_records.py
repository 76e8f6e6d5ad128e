from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.pacing import (
    PassRate,
    beta,
    problem_weights,
    read_pass_rates,
    read_weights,
    write_pass_rates,
    write_rates_after,
)

RATES = [PassRate("b", 3, 8), PassRate("none", 0, 8), PassRate("ä\u2028", 1, 7), PassRate("all", 8, 8)]
PACED = problem_weights(RATES, beta(1, 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "pass_rates.jsonl"
    write_pass_rates(file, RATES, PACED)
    return file


def test_pass_rates_and_weights_are_read_back_to_the_last_bit(path: Path) -> None:
    assert read_pass_rates(path) == RATES
    assert read_weights(path) == PACED.weights
    assert list(read_weights(path)) == ["b", "ä\u2028"]


def test_a_line_has_exactly_the_promised_keys(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "problem_id": "b",
        "correct": 3,
        "attempts": 8,
        "pass_rate": 0.375,
        "on_frontier": True,
        "kept": True,
        "weight": PACED.weights["b"],
    }
    left_out = [(line["on_frontier"], line["kept"], line["weight"]) for line in lines[1::2]]
    assert left_out == [(False, False, 0.0)] * 2


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="the disk is full"):
        write_pass_rates(path, RATES[:1], PACED)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_takes_the_old_ones_place_at_once(path: Path) -> None:
    before = path.read_text()
    with path.open() as reader:
        write_pass_rates(path, RATES[:1], PACED)
        assert reader.read() == before  # whoever had opened it sees the old one whole, never a mixture
    assert read_pass_rates(path) == RATES[:1]


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pass_rates\.jsonl is missing: run `paced weigh`"):
        read_weights(tmp_path / "pass_rates.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: "{",
        lambda record: json.dumps([record]),
        lambda record: json.dumps({k: v for k, v in record.items() if k != "weight"}),
        lambda record: json.dumps(record | {"correct": 9}),
        lambda record: json.dumps(record | {"correct": 2}),  # pass_rate says 3/8
        lambda record: json.dumps(record | {"on_frontier": False}),
        lambda record: json.dumps(record | {"weight": "1"}),
        lambda record: json.dumps(record | {"weight": float("nan")}),
        lambda record: json.dumps(record | {"problem_id": "all"}),
    ],
)
def test_a_broken_line_is_named_by_its_number(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    lines = path.read_text().splitlines()
    lines.append(change(json.loads(lines[0]) | {"problem_id": "new"}))
    path.write_text("\n".join(lines) + "\n")
    for read in (read_pass_rates, read_weights):
        with pytest.raises(UserError, match=r"pass_rates\.jsonl:5: "):
            read(path)


def test_kept_follows_the_weights_and_not_the_frontier(tmp_path: Path) -> None:
    file = tmp_path / "pass_rates.jsonl"
    paced = problem_weights(RATES, lambda p: 1.0, keep="solvable")
    write_pass_rates(file, RATES, paced)
    assert read_weights(file) == {"b": 1.0, "ä\u2028": 1.0, "all": 1.0}
    file.write_text(file.read_text().replace('"kept": true', '"kept": false'))
    with pytest.raises(UserError, match="kept does not fit weight"):
        read_weights(file)


def test_rates_after_training_are_read_as_pass_rates_and_hold_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "pass_rates_after.jsonl"
    write_rates_after(file, RATES)
    assert read_pass_rates(file) == RATES
    with pytest.raises(UserError, match=r":1: not a pass rate"):
        read_weights(file)
