"""The evaluations of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from paced_megatron.evaluation.accuracy import EvaluationRow

MOST_LEVELS = 10  # more columns than that do not fit a terminal; evaluation.json has them


def evaluation_table(rows: Sequence[EvaluationRow]) -> Group:
    """A line per measurement: stage, step, accuracy ± its standard error over problems, accuracy by level, in
    %."""
    levels = sorted({level for row in rows for level in row.accuracy_by_level}, key=by_number)
    if len(levels) > MOST_LEVELS:
        levels = []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("stage", "step", "all", *levels):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        accuracy = f"{100 * row.accuracy:.1f} ± {100 * row.standard_error:.1f}"
        by_level = (_whole_percent(row.accuracy_by_level.get(level)) for level in levels)
        table.add_row(str(row.stage), str(row.step), accuracy, *by_level)
    title = "held-out accuracy in %, ± standard error over problems"
    return Group(title + (", then by level" if levels else ""), table)


def _whole_percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def by_number(level: str) -> tuple[float, str]:
    """Level 10 comes after level 9, and words after numbers."""
    try:
        return float(level), level
    except ValueError:
        return float("inf"), level
