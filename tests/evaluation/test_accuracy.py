"""Accuracy and its standard error, by numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import add_row, measure, read_rows
from paced_megatron.problems.outcome import Outcome
from paced_megatron.report.table import evaluation_table
from paced_megatron.rollout.attempts import Attempt


def attempts(problem_id: str, *outcomes: Outcome) -> list[Attempt]:
    return [
        Attempt(
            problem_id=problem_id,
            index=index,
            token_ids=(1,),
            text="x",
            finish_reason="length" if outcome is Outcome.TRUNCATED else "stop",
            outcome=outcome,
            seed=1,
            weight_version="v",
        )
        for index, outcome in enumerate(outcomes)
    ]


RIGHT, WRONG, CUT = Outcome.CORRECT, Outcome.INCORRECT, Outcome.TRUNCATED
ALL = [*attempts("a", RIGHT, RIGHT), *attempts("b", RIGHT, CUT), *attempts("c", WRONG, WRONG)]
LEVELS = {"a": "easy", "b": "easy", "c": None}


def row(step: int = 0, stage: int = 1):
    return measure(
        ALL,
        stage=stage,
        step=step,
        problem_set="test",
        decoding="sampled",
        levels=LEVELS,
        strata={},
        sampling={"temperature": 1.0},
    )


def test_accuracy_is_the_mean_over_problems_of_the_share_correct():
    measured = row()
    assert measured.accuracy == pytest.approx(0.5)
    assert measured.standard_error == pytest.approx(0.5 / math.sqrt(3))  # shares 1, 1/2, 0
    assert (measured.problems, measured.attempts) == (3, 2)
    assert measured.accuracy_by_level == {"easy": pytest.approx(0.75)}


def test_one_problem_has_no_standard_error_and_the_file_is_still_json(tmp_path):
    one = measure(
        attempts("a", RIGHT, WRONG),
        stage=1,
        step=0,
        problem_set="test",
        decoding="sampled",
        levels={},
        strata={},
        sampling={},
    )
    add_row(tmp_path / "evaluation.json", one)
    assert read_rows(tmp_path / "evaluation.json") == [one] and one.standard_error is None
    written = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in written
    earlier = written.replace('"standard_error": null', '"standard_error": NaN')  # of the version before
    assert earlier != written
    (tmp_path / "evaluation.json").write_text(earlier)
    assert read_rows(tmp_path / "evaluation.json") == [one]
    console = Console(width=100, record=True, file=StringIO())
    console.print(evaluation_table([one]))
    assert (
        "50.0" in (text := console.export_text())
        and "nan" not in text
        and "± " not in text.partition("\n")[2]
    )


def test_every_kind_of_outcome_is_counted_and_none_is_lost():
    outcomes = row().outcomes
    assert outcomes == {"correct": 3, "incorrect": 2, "unparsable": 0, "truncated": 1, "timed_out": 0}


def test_rows_come_back_in_order_and_a_second_measurement_replaces_the_first(tmp_path):
    path = tmp_path / "evaluation.json"
    for measured in (row(step=20), row(step=0), row(step=10, stage=2), row(step=20)):
        add_row(path, measured)
    assert [(r.stage, r.step) for r in read_rows(path)] == [(1, 0), (1, 20), (2, 10)]
    assert read_rows(path)[0] == row(step=0)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"rows": [{"stage": 1}]}')
    with pytest.raises(UserError, match=r"evaluation\.json"):
        read_rows(tmp_path / "evaluation.json")


def test_accuracy_by_stratum_is_over_the_problems_of_the_stratum():
    by_stratum = measure(
        ALL,
        stage=1,
        step=0,
        problem_set="test",
        decoding="sampled",
        levels={},
        strata={"a": "frontier", "b": "frontier", "c": "never"},
        sampling={},
    )
    assert by_stratum.accuracy_by_stratum == {"frontier": 0.75, "never": 0.0}
    assert by_stratum.problems_by_stratum == {"frontier": 2, "never": 1}
    assert (by_stratum.accuracy, by_stratum.tokens) == (0.5, 6)


def test_rows_of_another_decoding_or_problem_set_stand_beside_one_another(tmp_path):
    path = tmp_path / "evaluation.json"
    kinds = [("test", "sampled"), ("test", "greedy"), ("forgetting", "sampled")]
    for problem_set, decoding in [*kinds, kinds[1]]:
        add_row(path, replace(row(), problem_set=problem_set, decoding=decoding))
    assert sorted((r.problem_set, r.decoding) for r in read_rows(path)) == sorted(kinds)
