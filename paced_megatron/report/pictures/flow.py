"""Pass rates before and after as one picture: two histograms, and the problems that move between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from paced_megatron.report.pictures.canvas import PX, Canvas

_TITLE, _HEAD, _BARS, _FLOW, _NAME, _FOOT = 24, 44, 96, 150, 20, 48  # heights in CSS pixels
_SIDE, _BETWEEN = 2, 48
_SLOT = 0.86  # of the distance between two pass rates: a bar's width, and the largest group's ribbons


def draw_flow(canvas: Canvas, movements: Sequence[dict[str, Any]]) -> Figure:
    """A panel per arm: a histogram for each moment, before above, after below, between two a ribbon for every
    (before, after), as broad as it has problems. Weights stand over the histogram from which they were made.

    Args:
        movements: `content["movements"]` (see `content.py`).
    """
    columns = 1 if canvas.is_narrow or len(movements) == 1 else 2
    rows = -(-len(movements) // columns)
    title = _TITLE if any(each["title"] for each in movements) else 0
    moments = max(len(each["moments"]) for each in movements)
    panel = title + _HEAD + moments * _BARS + (moments - 1) * _FLOW + max(moments - 2, 0) * _NAME + _FOOT
    figure = canvas.figure(rows * panel)
    width = (canvas.width - 2 * _SIDE - (columns - 1) * _BETWEEN) / columns
    most_weight = max(
        (weight for each in movements for moment in each["moments"] for _, weight in moment["weights"]),
        default=0.0,
    )
    for number, movement in enumerate(movements):
        row, column = divmod(number, columns)
        left, top = _SIDE + column * (width + _BETWEEN), row * panel
        if movement["title"]:
            _write(canvas, figure, movement["title"], (left, top + 6), fontsize=11, fontweight="bold")
        _panel(canvas, figure, movement, (left, top + title, width), most_weight)
    return figure


def _panel(
    canvas: Canvas,
    figure: Figure,
    movement: dict[str, Any],
    place: tuple[float, float, float],
    most_weight: float,
) -> None:
    left, top, width = place
    moments = movement["moments"]
    most = max(1, *(count for moment in moments for count in moment["counts"]))
    y = top + _HEAD
    for number, moment in enumerate(moments):
        if number > 0:
            between = canvas.axes(figure, left, y, width, _FLOW)
            _ribbons(canvas, between, np.array(movement["matrices"][number - 1]), most)
            y += _FLOW
        hangs = number == len(moments) - 1 and number > 0
        if number > 0 and not hangs:  # it stands apart from the ribbons that lead to it
            _write(canvas, figure, _name(movement, number), (left, y + 6), "muted", fontsize=8.5)
            y += _NAME
        axes = canvas.axes(figure, left, y, width, _BARS)
        _bars(canvas, axes, moment["counts"], most)
        if moment["weights"]:
            _weights(canvas, axes, moment, movement["weight_label"] if number == 0 else "", most_weight)
        if hangs:
            axes.set_ylim(axes.get_ylim()[::-1])
        _numbers(canvas, axes if hangs else _over(axes), moment["counts"], upwards=not hangs)
        if number == 0 and len(moments) > 1:
            _write(canvas, figure, _name(movement, number), (left, top + 28), "muted", fontsize=8.5)
        if hangs:
            _write(canvas, figure, _name(movement, number), (left, y + _BARS + 20), "muted", fontsize=8.5)
        y += _BARS
    _scale(canvas, axes, moments[-1])
    if len(moments) > 1:
        _words(canvas, figure, movement, (left, top))


def _name(movement: dict[str, Any], number: int) -> str:
    """When it was; and of how many attempts, where that is not what the scale below says."""
    moment, last = movement["moments"][number], movement["moments"][-1]
    if moment["attempts"] == last["attempts"]:
        return str(moment["name"])
    attempts = moment["attempts"]
    return f"{moment['name']} " + (f"(of {attempts} attempts)" if attempts else "(by pass rate)")


def _bars(canvas: Canvas, axes: Axes, counts: Sequence[int], most: int) -> None:
    axes.bar(_places(len(counts)), counts, _SLOT / (len(counts) - 1), color=canvas.colours["stay"])
    half = 0.5 / (len(counts) - 1)
    axes.set_xlim(-half, 1 + half)
    axes.set_ylim(0, most * 1.2)
    axes.set_axis_off()


def _numbers(canvas: Canvas, axes: Axes, counts: Sequence[int], upwards: bool) -> None:
    for place, count in zip(_places(len(counts)), counts, strict=True):
        axes.annotate(
            str(count), (place, count), xytext=(0, 3 if upwards else -3), textcoords="offset points",
            ha="center", va="bottom" if upwards else "top", fontsize=8, color=canvas.colours["ink"],
            bbox={"facecolor": canvas.colours["surface"], "alpha": 0.8, "linewidth": 0, "pad": 0.4}, zorder=5,
        )  # fmt: skip


def _ribbons(canvas: Canvas, axes: Axes, matrix: np.ndarray, most: int) -> None:
    """A group's ribbons lie side by side in the order of where they go to, so that they cross late."""
    axes.set_axis_off()
    half_before, half_after = 0.5 / (len(matrix) - 1), 0.5 / (matrix.shape[1] - 1)
    half = max(half_before, half_after)
    axes.set_xlim(-half, 1 + half)
    axes.set_ylim(1, 0)
    unit = 2 * min(half_before, half_after) * _SLOT / most  # breadth of one problem
    start = np.array(_places(len(matrix))) - matrix.sum(1) * unit / 2
    end = np.array(_places(matrix.shape[1])) - matrix.sum(0) * unit / 2
    shapes = []
    for before, row in enumerate(matrix):
        for after, count in enumerate(row):
            if count:
                breadth = count * unit
                shapes.append((before, after, count, start[before], end[after], breadth))
                start[before] += breadth
                end[after] += breadth
    scale_before, scale_after = len(matrix) - 1, matrix.shape[1] - 1
    for before, after, _, x0, x1, breadth in sorted(shapes, key=lambda shape: -shape[2]):
        change = after / scale_after - before / scale_before
        kind = "stay" if abs(change) < 1e-9 else "up" if change > 0 else "down"
        ribbon = PathPatch(
            _ribbon(x0, x1, breadth),
            facecolor=canvas.colours[kind],
            edgecolor=canvas.colours[kind],
            linewidth=0.4,
            alpha=0.55 if kind == "stay" else 0.72,
            zorder=1 if kind == "stay" else 2,
        )
        axes.add_patch(ribbon)


def _ribbon(x0: float, x1: float, breadth: float) -> Outline:
    """From (x0, top) to (x1, bottom) and back along the other edge, both ends upright."""
    corners = [
        (x0, 0.0), (x0, 0.5), (x1, 0.5), (x1, 1.0),
        (x1 + breadth, 1.0), (x1 + breadth, 0.5), (x0 + breadth, 0.5), (x0 + breadth, 0.0), (x0, 0.0),
    ]  # fmt: skip
    curve = [Outline.CURVE4] * 3
    return Outline(corners, [Outline.MOVETO, *curve, Outline.LINETO, *curve, Outline.CLOSEPOLY])


def _weights(canvas: Canvas, axes: Axes, moment: dict[str, Any], label: str, most: float) -> None:
    """The weight in force over the histogram, on an axis of its own that begins at 0."""
    if most <= 0:
        return
    over = _over(axes)
    over.set_ylim(0, most * 1.3)
    colour = canvas.colours["weight"]
    if moment["curve"]:
        p, weight = zip(*moment["curve"], strict=True)
        over.fill_between(p, weight, color=colour, alpha=0.10, linewidth=0)
        over.plot(p, weight, color=colour, linewidth=1.6)
    p, weight = zip(*moment["weights"], strict=True)
    over.plot(
        p,
        weight,
        color=colour,
        linewidth=1.2,
        linestyle="none" if moment["curve"] else (0, (3, 2)),
        marker="o",
        markersize=4,
        markeredgecolor=canvas.colours["surface"],
        markeredgewidth=0.8,
        clip_on=False,
    )
    if not label:
        return
    over.annotate(
        f"weight {label}", (0.5, max(weight)), xytext=(0, 5), textcoords="offset points",
        ha="center", va="bottom", fontsize=8.5, color=colour,
    )  # fmt: skip


def _over(axes: Axes) -> Axes:
    """Axes on top of these, with the same limits."""
    over = axes.twinx()
    over.set_axis_off()
    over.set_ylim(axes.get_ylim())
    return over


def _words(canvas: Canvas, figure: Figure, movement: dict[str, Any], corner: tuple[float, float]) -> None:
    """What moved, in the colours of the ribbons."""
    left, top = corner
    for x, colour, text in (
        (0, "up", f"▲ {movement['up']} up"),
        (92, "down", f"▼ {movement['down']} down"),
        (198, "muted", f"{movement['same']} the same"),
    ):
        weight = "normal" if colour == "muted" else "bold"
        _write(canvas, figure, text, (left + x, top + 6), colour, fontsize=9, fontweight=weight)


def _write(
    canvas: Canvas, figure: Figure, text: str, place: tuple[float, float], colour: str = "ink", **font: Any
) -> None:
    """Text whose top left corner is at a place in CSS pixels from the figure's."""
    x, y = place[0] / canvas.width, 1 - place[1] / (figure.get_figheight() / PX)
    figure.text(x, y, text, color=canvas.colours[colour], va="top", **font)


def _scale(canvas: Canvas, axes: Axes, moment: dict[str, Any]) -> None:
    """The number of correct attempts, or the pass rate, under a histogram."""
    bars, attempts = len(moment["counts"]), moment["attempts"]
    for number, place in enumerate(_places(bars)):
        axes.annotate(
            str(number) if attempts else f"{place:g}", (place, 0), xycoords=("data", "axes fraction"),
            xytext=(0, -2), textcoords="offset points", ha="center", va="top", fontsize=9,
            color=canvas.colours["ink"],
        )  # fmt: skip
    axes.annotate(
        f"correct attempts of {attempts}" if attempts else "pass rate", (0.5, 0), xycoords="axes fraction",
        xytext=(0, -16), textcoords="offset points", ha="center", va="top", fontsize=8.5,
        color=canvas.colours["muted"],
    )  # fmt: skip


def _places(count: int) -> list[float]:
    """k / K for every k."""
    return [k / (count - 1) for k in range(count)]
