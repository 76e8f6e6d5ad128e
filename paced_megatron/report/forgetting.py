"""What other tasks say before and after: the rows of forgetting.json, where a run has that file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.report.statistics import Estimate, over_seeds

Rows = Sequence[dict[str, Any]]
_Z95 = 1.959964  # of the normal distribution
_KEYS = ("task", "metric", "when", "value")


def read_forgetting(path: Path) -> list[dict[str, Any]]:
    """The file's rows; none where there is no file. Raises UserError where it is no such file."""
    if not path.is_file():
        return []
    try:
        rows = [dict(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
        if any(key not in row for row in rows for key in _KEYS):
            raise ValueError(f"a row has {', '.join(_KEYS)}")
        return rows
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the scores of other tasks ({error}); remove it, and the report does without"
        ) from None


def forgetting(arms: Sequence[tuple[str, Sequence[Rows]]]) -> list[dict[str, Any]]:
    """A record for each arm, task and metric: the score before, after, and how it changed.

    Args:
        arms: name -> for each of its seeds the rows of its forgetting.json.

    Intervals are Student's t over seeds where there are two or more; for one seed those of each score alone,
    from its standard error, and the change has none: the rows do not say what the same question did twice.
    """
    return [
        {"arm": arm, "task": task, "metric": metric, "problems": problems, **_estimates(seeds, task, metric)}
        for arm, seeds in arms
        for task, metric, problems in _measured(seeds)
    ]


def _measured(seeds: Sequence[Rows]) -> list[tuple[str, str, int | None]]:
    """Those tasks and metrics that each seed has before and after."""
    first = {(row["task"], row["metric"]): row.get("problems") for row in seeds[0]}
    return [
        (task, metric, problems)
        for (task, metric), problems in first.items()
        if all(_row(rows, task, metric, when) for rows in seeds for when in ("before", "after"))
    ]


def _row(rows: Rows, task: str, metric: str, when: str) -> dict[str, Any] | None:
    """The last one: what was measured again replaces what was there."""
    found = [row for row in rows if (row["task"], row["metric"], row["when"]) == (task, metric, when)]
    return found[-1] if found else None


def _estimates(seeds: Sequence[Rows], task: str, metric: str) -> dict[str, Any]:
    rows = {when: [_row(each, task, metric, when) or {} for each in seeds] for when in ("before", "after")}
    values = {when: [float(row["value"]) for row in found] for when, found in rows.items()}
    changes = [after - before for before, after in zip(values["before"], values["after"], strict=True)]
    if len(seeds) > 1:
        found = {when: over_seeds(each) for when, each in (values | {"change": changes}).items()}
    else:
        found = {when: _alone(each[0]) for when, each in rows.items()}
        found["change"] = Estimate(changes[0], None, None, 1)
    return {when: asdict(estimate) for when, estimate in found.items()}


def _alone(row: dict[str, Any]) -> Estimate:
    value, error = float(row["value"]), row.get("stderr")
    if not isinstance(error, int | float) or not error > 0:
        return Estimate(value, None, None, row.get("problems") or 1)
    return Estimate(value, value - _Z95 * error, value + _Z95 * error, row.get("problems") or 1)
