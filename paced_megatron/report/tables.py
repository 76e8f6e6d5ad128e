"""The report's numbers as CSV: one long table for each thing that was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paced_megatron.report.cost import GENERATED
from paced_megatron.report.forgetting import WHEN
from paced_megatron.report.wall_time import TRAINING
from paced_megatron.report.weighing import STAGE_NUMBERS

Rows = Iterable[Sequence[Any]]


def csv_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Name of the file without .csv -> its text. Shares are in [0, 1]; what is not known is empty."""
    tables: dict[str, tuple[str, Rows]] = {
        "movements": (
            "arm problem_set from to correct_before attempts_before correct_after attempts_after problems",
            _movements(content),
        ),
        "histograms": ("arm problem_set moment pass_rate problems", _histograms(content)),
        "weights": ("arm stage pass_rate mean_weight", _weights(content)),
        "stages": (f"arm stage {' '.join(STAGE_NUMBERS)}", _stages(content)),
        "accuracy": (
            "problem_set decoding group name problems arm when mean low high n",
            _accuracy(content),
        ),
        "forgetting": ("arm task metric documents when mean low high n", _forgetting(content)),
        "outcomes": ("arm stage phase step problem_set decoding outcome attempts share", _outcomes(content)),
        "loss": ("arm seed step loss", _loss(content)),
        "steps": ("arm seed step number value", _steps(content)),
        "cost": ("arm steps work tokens seconds", _cost(content)),
        "time": ("arm stage phase part seconds share", _time(content)),
        "chance": ("arm up down same up_by_chance down_by_chance", _chance(content)),
    }
    return {name: _csv(header.split(), rows) for name, (header, rows) in tables.items()}


def _movements(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        for move in movement["moves"]:
            yield movement["arm"], movement["problem_set"], *move


def _histograms(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        for moment in movement["moments"]:
            for bar, problems in enumerate(moment["counts"]):
                pass_rate = bar / (len(moment["counts"]) - 1)
                yield movement["arm"], movement["problem_set"], moment["name"], pass_rate, problems


def _chance(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        keys = ("arm", "up", "down", "same", "up_by_chance", "down_by_chance")
        yield [movement[key] for key in keys]


def _weights(content: Mapping[str, Any]) -> Rows:
    for movement in content["movements"]:
        for stage, moment in enumerate(movement["moments"], start=1):
            for pass_rate, weight in moment["weights"]:
                yield movement["arm"], stage, pass_rate, weight


def _stages(content: Mapping[str, Any]) -> Rows:
    for record in content["weights"]:
        yield [record[key] for key in ("arm", "stage", *STAGE_NUMBERS)]


def _accuracy(content: Mapping[str, Any]) -> Rows:
    for measure in content["accuracy"]:
        which = [measure[key] for key in ("problem_set", "decoding", "group", "name", "problems")]
        for entry in measure["arms"]:
            for when in ("before", "after", "gain"):
                numbers = [entry[when][key] for key in ("mean", "low", "high", "n")]
                yield *which, entry["arm"], when, *numbers


def _forgetting(content: Mapping[str, Any]) -> Rows:
    for record in content["forgetting"]:
        for when in WHEN:
            numbers = [record[when][key] for key in ("mean", "low", "high", "n")]
            yield *(record[key] for key in ("arm", "task", "metric", "documents")), when, *numbers


def _outcomes(content: Mapping[str, Any]) -> Rows:
    for record in content["outcomes"]:
        which = [record[key] for key in ("arm", "stage", "phase", "step", "problem_set", "decoding")]
        for kind, found in record["kinds"].items():
            yield *which, kind, found["count"], found["share"]


def _loss(content: Mapping[str, Any]) -> Rows:
    for loss in content["loss"]:
        for seed in loss["seeds"]:
            for step, value in seed["points"]:
                yield loss["arm"], seed["seed"], step, value


def _steps(content: Mapping[str, Any]) -> Rows:
    for curve in content["steps"]:
        for arm in curve["arms"]:
            for seed in arm["seeds"]:
                for step, value in seed["points"]:
                    yield arm["arm"], seed["seed"], step, curve["name"], value


def _time(content: Mapping[str, Any]) -> Rows:
    for time in content["time"]:
        for phase in time["phases"]:
            yield time["arm"], phase["stage"], phase["phase"], None, phase["seconds"], phase["share"]
        for step in time["step"]:
            yield time["arm"], step["stage"], TRAINING, step["part"], step["seconds"], None


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
