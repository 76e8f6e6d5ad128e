"""What other tasks say before and after training: forgetting.json, where a run has that file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.evaluation.estimates import Estimate
from paced_megatron.experiments.intervals import NORMAL_QUANTILE
from paced_megatron.report.statistics import over_seeds

Number = Mapping[str, Any]  # of "forgotten", and beside it the standard errors of its two values
WHEN = ("before", "after", "forgotten")
_KEYS = ("task", "metric", "before", "after", "forgotten", "interval", "documents")


def read_forgetting(path: Path) -> list[dict[str, Any]]:
    """What was forgotten, a record for each task and metric: an entry of the file's "forgotten", with the
    `standard_errors` of its values before and after from "rows". None where there is no file.

    Raises UserError where it is no such file.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        errors: dict[tuple[str, str], list[float | None]] = {}
        for row in sorted(content["rows"], key=lambda row: (row["stage"], row["step"])):
            errors.setdefault((row["task"], row["metric"]), []).append(row.get("standard_error"))
        return [
            {key: one[key] for key in _KEYS}
            | {"standard_errors": [errors[one["task"], one["metric"]][end] for end in (0, -1)]}
            for one in content["forgotten"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not what lm-eval's tasks said ({error}); remove it, and the report does without"
        ) from None


def forgetting(arms: Sequence[tuple[str, Sequence[Sequence[Number]]]]) -> list[dict[str, Any]]:
    """A record for each arm, task and metric: the score before, after, and what was forgotten of it, which is
    above 0 where the student became worse.

    Args:
        arms: name -> for each of its seeds what `read_forgetting` gives.

    Intervals are Student's t over seeds where there are two or more. For one seed they run over the task's
    documents: that of what was forgotten as the file has it (in pairs where it could be), those of the scores
    from their standard errors.
    """
    return [
        {
            "arm": arm,
            "task": first["task"],
            "metric": first["metric"],
            "documents": first["documents"],
            **{when: asdict(estimate) for when, estimate in _estimates(seeds).items()},
        }
        for arm, runs in arms
        for first, seeds in _in_each(runs)
    ]


def _in_each(runs: Sequence[Sequence[Number]]) -> list[tuple[Number, list[Number]]]:
    """The numbers of the first run that the others have too: with those of each run."""
    by_name = [{(one["task"], one["metric"]): one for one in run} for run in runs]
    return [
        (one, [numbers[name] for numbers in by_name])
        for name, one in by_name[0].items()
        if all(name in numbers for numbers in by_name)
    ]


def _estimates(seeds: Sequence[Number]) -> dict[str, Estimate]:
    if len(seeds) > 1:
        return {when: over_seeds([float(one[when]) for one in seeds]) for when in WHEN}
    [one] = seeds
    found = {
        when: _estimate(one[when], _around(one[when], error), one)
        for when, error in zip(("before", "after"), one["standard_errors"], strict=True)
    }
    return found | {"forgotten": _estimate(one["forgotten"], one["interval"], one)}


def _estimate(value: float, interval: Sequence[float] | None, one: Number) -> Estimate:
    low, high = interval or (None, None)
    return Estimate(float(value), low, high, one["documents"])


def _around(value: float, error: float | None) -> tuple[float, float] | None:
    return None if not error else (value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error)
