"""The pictures in words, for those who don't see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paced_megatron.report.wording import CURVE_NAMES, measure_label


def alt_texts(content: Mapping[str, Any]) -> dict[str, str]:
    """A text for each picture, with its numbers; the tables beside it have the rest."""
    return {
        "movements": " ".join(_movement(movement) for movement in content["movements"]),
        "accuracy": " ".join(
            _accuracy(measure) for measure in content["accuracy"] if measure["group"] == "all"
        ),
        "loss": " ".join(_loss(loss) for loss in content["loss"]),
        "steps": " ".join(
            f"{CURVE_NAMES[curve['name']]}, {_course(arm)}"
            for curve in content["steps"]
            for arm in curve["arms"]
        ),
    }


def _movement(movement: Mapping[str, Any]) -> str:
    text = (
        f"{movement['arm']}: of {movement['problems']} problems {movement['before'][0]} were never solved "
        f"before and {movement['before'][-1]} always"
    )
    if movement["after"] is None:
        return f"{text}."
    return (
        f"{text}; after, {movement['after'][0]} and {movement['after'][-1]}. {movement['up']} moved up, "
        f"{movement['down']} down, {movement['same']} stayed."
    )


def _accuracy(measure: Mapping[str, Any]) -> str:
    after = ", ".join(f"{arm['arm']} {_percent(arm['after']['mean'])}" for arm in measure["arms"])
    return f"{measure_label(measure)}: before {_percent(measure['before']['mean'])}; after: {after}."


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def _loss(loss: Mapping[str, Any]) -> str:
    known = [value for _, value in loss["mean"] if value is not None]
    if not known:
        return f"{loss['arm']}: no finite loss."
    return f"{loss['arm']}: loss from {known[0]:.3g} to {known[-1]:.3g} over {len(loss['mean'])} steps."


def _course(curve: Mapping[str, Any]) -> str:
    known = [value for _, value in curve["mean"] if value is not None]
    if not known:
        return f"{curve['arm']}: not known."
    return f"{curve['arm']}: from {known[0]:.3g} to {known[-1]:.3g}."
