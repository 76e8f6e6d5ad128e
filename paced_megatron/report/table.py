"""The evaluations of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from paced_megatron.evaluation.accuracy import EvaluationRow

MOST_LEVELS = 10  # more columns than that are no help on a terminal; evaluation.json has them


def evaluation_table(rows: Sequence[EvaluationRow]) -> Table:
    """A line per measurement: stage, step, accuracy with its standard error over problems, accuracy by level,
    in %."""
    levels = sorted({level for row in rows for level in row.accuracy_by_level}, key=_as_number_if_possible)
    if len(levels) > MOST_LEVELS:
        levels = []
    table = Table(
        title="accuracy on the held-out problems, % (± standard error over problems)", title_justify="left"
    )
    for heading in ("stage", "step", "all", *(f"level {level}" for level in levels)):
        table.add_column(heading, justify="right")
    for row in rows:
        by_level = (_percent(row.accuracy_by_level.get(level)) for level in levels)
        accuracy = f"{_percent(row.accuracy)} ± {_percent(row.standard_error)}"
        table.add_row(str(row.stage), str(row.step), accuracy, *by_level)
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _as_number_if_possible(level: str) -> tuple[float, str]:
    """Level 10 comes after level 9, and words after numbers."""
    try:
        return float(level), level
    except ValueError:
        return float("inf"), level
