"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console

from paced_megatron.evaluation.accuracy import EvaluationRow
from paced_megatron.report.table import evaluation_table


def row(step: int, accuracy: float, **by_level: float) -> EvaluationRow:
    return EvaluationRow(
        stage=1,
        step=step,
        weight_version="v",
        accuracy=accuracy,
        standard_error=0.0123,
        problems=10,
        attempts=2,
        outcomes={},
        accuracy_by_level=by_level,
    )


def shown(rows: list[EvaluationRow]) -> list[str]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(evaluation_table(rows))
    return [line for line in console.export_text().splitlines() if line.strip()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def test_a_line_per_measurement_with_levels_in_the_order_of_numbers():
    lines = shown([row(0, 0.5, **{"10": 0.25, "9": 0.75}), row(40, 0.625, **{"9": 1.0})])
    table = [cells(line) for line in lines if "│" in line or "┃" in line]
    assert table == [
        ["stage", "step", "all", "level 9", "level 10"],
        ["1", "0", "50.0 ± 1.2", "75.0", "25.0"],
        ["1", "40", "62.5 ± 1.2", "100.0", ""],
    ]


def test_more_levels_than_fit_are_left_to_the_file():
    lines = shown([row(0, 0.5, **{str(level): 0.5 for level in range(11)})])
    assert not any("level" in line for line in lines)
