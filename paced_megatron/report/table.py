"""The evaluations of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from paced_megatron.evaluation.accuracy import EvaluationRow
from paced_megatron.experiments.table import measure_name

MOST_LEVELS = 10  # more columns than that do not fit a terminal; evaluation.json has them


def evaluation_table(rows: Sequence[EvaluationRow]) -> Group:
    """A table for each problem set and decoding, a line per measurement: stage, step, accuracy ± its standard
    error over problems, accuracy by level, in %."""
    of: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        of.setdefault(f"{row.problem_set}_{row.decoding}", []).append(row)
    by_level = ", then by level" if any(map(_levels, of.values())) else ""
    parts: list[RenderableType] = [f"accuracy in %, ± standard error over problems{by_level}"]
    for measure, its_rows in of.items():
        parts += [measure_name(measure), _table(its_rows)]
    return Group(*parts)


def _levels(rows: Sequence[EvaluationRow]) -> list[str]:
    levels = sorted({level for row in rows for level in row.accuracy_by_level}, key=by_number)
    return levels if len(levels) <= MOST_LEVELS else []


def _table(rows: Sequence[EvaluationRow]) -> Table:
    levels = _levels(rows)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("stage", "step", "all", *levels):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        error = "" if row.standard_error is None else f" ± {100 * row.standard_error:.1f}"
        accuracy = f"{100 * row.accuracy:.1f}{error}"
        by_level = (_whole_percent(row.accuracy_by_level.get(level)) for level in levels)
        table.add_row(str(row.stage), str(row.step), accuracy, *by_level)
    return table


def _whole_percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def by_number(level: str) -> tuple[float, str]:
    """Level 10 comes after level 9, and words after numbers."""
    try:
        return float(level), level
    except ValueError:
        return float("inf"), level
