"""Strata of the held-out problems."""

from __future__ import annotations

import json

import pytest

from paced_megatron.errors import UserError
from paced_megatron.evaluation.strata import read_strata, write_strata
from paced_megatron.pacing import PassRate

RATES = [PassRate("a", 0, 4), PassRate("b", 1, 4), PassRate("c", 3, 4), PassRate("d", 4, 4)]


def test_never_and_always_mean_every_attempt(tmp_path):
    path = tmp_path / "strata.jsonl"
    write_strata(path, RATES)
    assert read_strata(path) == {"a": "never", "b": "frontier", "c": "frontier", "d": "always"}
    first = json.loads(path.read_text().splitlines()[1])
    assert first == {"problem_id": "b", "correct": 1, "attempts": 4, "pass_rate": 0.25, "stratum": "frontier"}


def test_without_the_file_there_are_no_strata_and_a_broken_line_is_named(tmp_path):
    assert read_strata(tmp_path / "strata.jsonl") == {}
    (tmp_path / "strata.jsonl").write_text('{"problem_id": "a", "stratum": "often"}\n')
    with pytest.raises(UserError, match=r"strata\.jsonl:1: not a problem's stratum"):
        read_strata(tmp_path / "strata.jsonl")
