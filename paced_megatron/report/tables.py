"""The report's numbers as CSV: one long table for each thing that was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paced_megatron.report.cost import GENERATED

Rows = Iterable[Sequence[Any]]


def csv_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Name of the file without .csv -> its text. Shares are in [0, 1]; what is not known is empty."""
    tables: dict[str, tuple[str, Rows]] = {
        "movements": ("arm problem_set before after problems", _movements(content)),
        "weights": ("arm pass_rate mean_weight", _weights(content)),
        "accuracy": (
            "problem_set decoding group name problems arm when mean low high n",
            _accuracy(content),
        ),
        "loss": ("arm seed step loss", _loss(content)),
        "cost": ("arm steps work tokens seconds", _cost(content)),
    }
    return {name: _csv(header.split(), rows) for name, (header, rows) in tables.items()}


def _movements(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        for before, row in enumerate(movement["matrix"] or [[count] for count in movement["before"]]):
            for after, count in enumerate(row):
                yield (
                    movement["arm"], movement["problem_set"], before,
                    after if movement["matrix"] else None, count,
                )  # fmt: skip


def _weights(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        for pass_rate, weight in movement["weights"]:
            yield movement["arm"], pass_rate, weight


def _accuracy(content: Mapping[str, Any]) -> Rows:
    for measure in content["accuracy"]:
        which = [measure[key] for key in ("problem_set", "decoding", "group", "name", "problems")]
        for entry in measure["arms"]:
            for when in ("before", "after", "gain"):
                numbers = [entry[when][key] for key in ("mean", "low", "high", "n")]
                yield *which, entry["arm"], when, *numbers


def _loss(content: Mapping[str, Any]) -> Rows:
    for loss in content["loss"]:
        for seed in loss["seeds"]:
            for step, value in seed["points"]:
                yield loss["arm"], seed["seed"], step, value


def _cost(content: Mapping[str, Any]) -> Rows:
    for cost in content["cost"]:
        for work in ("training", *GENERATED):
            yield cost["arm"], cost["steps"], work, cost[work]["tokens"], cost[work]["seconds"]


def _csv(header: Sequence[str], rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
