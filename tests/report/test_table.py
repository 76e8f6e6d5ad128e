"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console

from paced_megatron.evaluation.accuracy import EvaluationRow
from paced_megatron.report.table import evaluation_table


def row(
    step: int, accuracy: float, kind: tuple[str, str] = ("test", "sampled"), **by_level: float
) -> EvaluationRow:
    problem_set, decoding = kind
    return EvaluationRow(
        stage=1,
        step=step,
        problem_set=problem_set,
        decoding=decoding,
        weight_version="v",
        accuracy=accuracy,
        standard_error=0.0123,
        problems=10,
        attempts=2,
        tokens=100,
        outcomes={},
        accuracy_by_level=by_level,
    )


def shown(rows: list[EvaluationRow], width: int = 200) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(evaluation_table(rows))
    return [line for line in console.export_text().splitlines() if line.strip()]


def cells(line: str) -> list[str]:
    return line.replace(" ± ", "±").split()


def test_a_line_per_measurement_with_levels_in_the_order_of_numbers():
    lines = shown([row(0, 0.5, **{"10": 0.25, "9": 0.75}), row(40, 0.625, **{"9": 1.0})])
    title, kind, *table = [line for line in lines if "───" not in line]
    assert "by level" in title and kind == "held-out, sampled"
    assert [cells(line) for line in table] == [
        ["stage", "step", "all", "9", "10"],
        ["1", "0", "50.0±1.2", "75", "25"],
        ["1", "40", "62.5±1.2", "100"],
    ]


def test_ten_levels_fit_a_terminal_of_80_columns():
    levels = {str(level): 1.0 for level in range(10)}
    lines = shown([row(1000, 1.0, **levels)], width=80)
    assert cells(lines[-1]) == ["1", "1000", "100.0±1.2", *["100"] * 10]


def test_more_levels_than_fit_are_left_to_the_file():
    lines = shown([row(0, 0.5, **{str(level): 0.5 for level in range(11)})])
    assert "by level" not in lines[0]
    assert cells(lines[2]) == ["stage", "step", "all"]


def test_each_problem_set_and_decoding_has_a_table_under_its_name_with_its_own_levels():
    other = ("forgetting", "greedy")
    lines = shown([row(0, 0.5, **{"1": 0.5}), row(0, 0.9, other, **{"7": 0.9}), row(40, 0.6, **{"1": 0.6})])
    table = [cells(line) for line in lines if "───" not in line][1:]
    assert table == [
        ["held-out,", "sampled"],
        ["stage", "step", "all", "1"],
        ["1", "0", "50.0±1.2", "50"],
        ["1", "40", "60.0±1.2", "60"],
        ["other", "skill,", "greedy"],
        ["stage", "step", "all", "7"],
        ["1", "0", "90.0±1.2", "90"],
    ]
