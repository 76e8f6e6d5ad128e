"""report.json and the pictures become one HTML file that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from paced_megatron.evaluation.accuracy import TEST
from paced_megatron.report.cost import GENERATED
from paced_megatron.report.palette import ARM_COLOURS, DARK, LIGHT, css_variables
from paced_megatron.report.wording import (
    DIFFERENCES,
    OUTCOME_NAMES,
    PHASE_NAMES,
    accuracy_caption,
    cost_caption,
    forgetting_caption,
    group_label,
    kind_label,
    loss_caption,
    movements_caption,
    outcomes_caption,
    steps_caption,
    time_caption,
    weights_caption,
    whole_sets,
    work_label,
    work_place,
)

_TEMPLATES = Path(__file__).parent / "templates"
NONE = "–"


@dataclass(frozen=True)
class PagePicture:
    """An SVG for a wide page and one for a phone, and what they show in words."""

    wide: str
    narrow: str
    alt: str


def page(content: Mapping[str, Any], pictures: Mapping[str, PagePicture]) -> str:
    """The page. `content` is the object in report.json, as it comes back from JSON."""
    stages = len(content["again"]["config"]["stages"])
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=False, lstrip_blocks=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "points": points,
        "fixed": fixed,
        "whole": whole,
        "score": score,
        "change": change,
        "group_label": group_label,
        "work_label": work_label,
        "work_place": partial(work_place, stages=stages),
        "arm_colour": lambda number: ARM_COLOURS[number % len(ARM_COLOURS)],
    }
    style = environment.get_template("report.css").render(
        light=css_variables(LIGHT), dark=css_variables(DARK)
    )
    return environment.get_template("report.html").render(
        r=content,
        style=style.rstrip(),
        pictures=pictures,
        sentences=re.split(r"(?<=[.!?]) (?=[A-Z])", content["reading"]),
        facts=_facts(content),
        tables=_accuracy_tables(content),
        cost_columns=["training", *GENERATED],
        captions={
            "movements": movements_caption(content),
            "accuracy": accuracy_caption(content),
            "loss": loss_caption(content),
            "steps": steps_caption(content),
            "cost": cost_caption(content),
            "time": time_caption(content),
            "outcomes": outcomes_caption(content),
            "weights": weights_caption(content),
            "forgetting": forgetting_caption(content),
        },
        stages=stages,
        outcome_names=OUTCOME_NAMES,
        time_rows=_time_rows(content, "phases", "phase"),
        step_rows=_time_rows(content, "step", "part"),
        examples=_examples(content),
        config_yaml=yaml.safe_dump(
            content["again"]["config"], sort_keys=False, allow_unicode=True, width=100
        ).rstrip(),
        **_differences(content.get("differences") or []),
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in %, without the sign."""
    return NONE if share is None else f"{100 * share:.{digits}f}".replace("-", "−")


def points(share: float | None) -> str:
    """A difference of shares in points, with its sign."""
    return NONE if share is None else f"{100 * share:+.1f}".replace("-", "−")


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point."""
    return NONE if value is None else f"{value:.{digits}f}"


def score(value: float | None) -> str:
    """Of a task, in the metric's own unit."""
    return NONE if value is None else f"{value:.3f}".replace("-", "−")


def change(value: float | None) -> str:
    """Between two scores, with its sign."""
    return NONE if value is None else f"{value:+.3f}".replace("-", "−")


def whole(value: float | None) -> str:
    """A whole number, its thousands set apart."""
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u2009")


def shown_measures(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of `accuracy` that are shown: of the held-out problems strata where there are any, else
    levels. The rest is in the files."""
    has_strata = any(measure["group"] == "stratum" for measure in content["accuracy"])
    return [
        measure
        for measure in content["accuracy"]
        if measure["group"] != ("level" if has_strata else "stratum")
        and (measure["problem_set"] == TEST or measure["group"] == "all")
    ]


def _accuracy_tables(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each problem set and decoding; one for both decodings where nothing is told apart."""
    tables: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    shown = shown_measures(content)
    grouped = {measure["problem_set"] for measure in shown if measure["group"] != "all"}
    for measure in shown:
        if measure["problem_set"] in grouped:
            tables.setdefault(kind_label(measure), []).append((group_label(measure), measure))
        else:
            title, decoding = kind_label(measure).split(", ")
            tables.setdefault(title, []).append((decoding, measure))
    return [{"title": title, "columns": columns} for title, columns in tables.items()]


def _time_rows(content: Mapping[str, Any], what: str, name: str) -> list[dict[str, Any]]:
    """A row for each stage and phase (or part of a step), with a cell for each arm."""
    by_arm = [{(each["stage"], each[name]): each for each in time[what]} for time in content["time"]]
    keys = dict.fromkeys(key for cells in by_arm for key in cells)
    several = len({stage for stage, _ in keys}) > 1
    return [
        {
            "label": (f"stage {stage}: " if several else "") + PHASE_NAMES.get(phase, phase),
            "cells": [cells.get((stage, phase)) for cells in by_arm],
        }
        for stage, phase in keys
    ]


def _examples(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each kind of outcome that there is, its name and its examples."""
    groups = [
        {"name": name, "examples": [each for each in content["examples"] if each["outcome"] == kind]}
        for kind, name in OUTCOME_NAMES.items()
    ]
    return [group for group in groups if group["examples"]]


def _facts(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """A few numbers for the top of the page."""
    arm, cost = content["arms"][0], content["cost"][0]
    problems = {"what": "training problems", "value": whole(arm["problems"]), "more": ""}
    steps = {"what": "optimizer steps", "value": whole(cost["steps"]), "more": ""}
    if content["kind"] == "experiment":
        runs = f"{len(content['arms'])} × {len(content['seeds'])}"
        problems["more"] = f"{whole(arm['never'])} never solved before, {whole(arm['always'])} always"
        steps["more"] = _in_each_run(content)
        return [{"what": "arms × seeds", "value": runs, "more": ""}, problems, steps]
    problems["more"] = f"{whole(arm['kept'])} kept, as noisy as {whole(arm['ess'])} of equal weight"
    steps["more"] = f"in {fixed(cost['training']['seconds'], 1)} s"
    return [*(_accuracy_fact(measure) for measure in whole_sets(content)[:2]), problems, steps]


def _in_each_run(content: Mapping[str, Any]) -> str:
    """Whether the first arm's number of steps is that of all runs; a budget in tokens or seconds gives each
    its own."""
    steps = {len(seed["points"]) for loss in content["loss"] for seed in loss["seeds"]}
    return "in every run" if len(steps) == 1 else f"from {whole(min(steps))} to {whole(max(steps))} by run"


def _accuracy_fact(measure: Mapping[str, Any]) -> dict[str, str]:
    before, after = (measure["arms"][0][when]["mean"] for when in ("before", "after"))
    gain = points(measure["arms"][0]["gain"]["mean"])
    return {
        "what": kind_label(measure),
        "value": f"{percent(before)} → {percent(after)} %",
        "more": f"{gain} points",
    }


def _differences(differences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows are pairs of arms, columns what they were compared in."""
    columns = [name for name in DIFFERENCES if any(each["measure"] == name for each in differences)]
    pairs = list(dict.fromkeys((each["arm"], each["other"]) for each in differences))
    cells = {(each["arm"], each["other"], each["measure"]): each for each in differences}
    return {
        "difference_columns": [DIFFERENCES[name] for name in columns],
        "difference_rows": [
            {"arm": arm, "other": other, "cells": [cells.get((arm, other, name)) for name in columns]}
            for arm, other in pairs
        ],
    }
