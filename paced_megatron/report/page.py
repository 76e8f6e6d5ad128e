"""report.json and the pictures become one HTML file that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from paced_megatron.evaluation.accuracy import TEST
from paced_megatron.report.cost import GENERATED
from paced_megatron.report.palette import ARM_COLOURS, DARK, LIGHT, css_variables
from paced_megatron.report.wording import (
    DIFFERENCES,
    accuracy_caption,
    cost_caption,
    group_label,
    kind_label,
    loss_caption,
    movements_caption,
    whole_sets,
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
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=False, lstrip_blocks=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "points": points,
        "fixed": fixed,
        "whole": whole,
        "group_label": group_label,
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
            "cost": cost_caption(content),
        },
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


def _facts(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """A few numbers for the top of the page."""
    arm, cost = content["arms"][0], content["cost"][0]
    problems = {"what": "training problems", "value": whole(arm["problems"]), "more": ""}
    steps = {"what": "optimizer steps", "value": whole(cost["steps"]), "more": ""}
    if content["kind"] == "experiment":
        runs = f"{len(content['arms'])} × {len(content['seeds'])}"
        problems["more"] = f"{whole(arm['never'])} never solved before, {whole(arm['always'])} always"
        steps["more"] = "in every run"
        return [{"what": "arms × seeds", "value": runs, "more": ""}, problems, steps]
    problems["more"] = f"{whole(arm['kept'])} kept, as noisy as {whole(arm['ess'])} of equal weight"
    steps["more"] = f"in {fixed(cost['training']['seconds'], 1)} s"
    return [*(_accuracy_fact(measure) for measure in whole_sets(content)[:2]), problems, steps]


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
