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

_TITLE, _HEAD, _BARS, _FLOW, _FOOT = 24, 44, 96, 150, 48  # heights in CSS pixels
_SIDE, _BETWEEN = 2, 48
_SLOT = 0.86  # of the distance between two pass rates: a bar's width, and the largest group's ribbons
_MOST_NUMBERS = 17  # where there are more values of k than that, not every bar has its number


def draw_flow(canvas: Canvas, movements: Sequence[dict[str, Any]]) -> Figure:
    """A panel per arm: before above, after below, between them a ribbon for every (before, after), as broad
    as it has problems. The weights stand over the histogram from which they were made.

    Args:
        movements: `content["movements"]` (see `content.py`).
    """
    columns = 1 if canvas.is_narrow or len(movements) == 1 else 2
    rows = -(-len(movements) // columns)
    title = _TITLE if any(each["title"] for each in movements) else 0
    has_after = any(each["matrix"] for each in movements)
    panel = title + _HEAD + _BARS + (_FLOW + _BARS if has_after else 0) + _FOOT
    figure = canvas.figure(rows * panel)
    width = (canvas.width - 2 * _SIDE - (columns - 1) * _BETWEEN) / columns
    most_weight = max((weight for each in movements for _, weight in each["weights"]), default=0.0)
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
    most = max(*movement["before"], *(movement["after"] or []), 1)
    above = canvas.axes(figure, left, top + _HEAD, width, _BARS)
    _bars(canvas, above, movement["before"], most)
    _weights(canvas, above, movement, most_weight)
    _numbers(canvas, _over(above), movement["before"], upwards=True)  # also over the weights
    if not movement["matrix"]:
        _scale(canvas, above, len(movement["before"]))
        return
    between = canvas.axes(figure, left, top + _HEAD + _BARS, width, _FLOW)
    below = canvas.axes(figure, left, top + _HEAD + _BARS + _FLOW, width, _BARS)
    _bars(canvas, below, movement["after"], most)
    below.set_ylim(below.get_ylim()[::-1])
    _ribbons(canvas, between, np.array(movement["matrix"]), most)
    _numbers(canvas, below, movement["after"], upwards=False)
    _scale(canvas, below, len(movement["after"]))
    _words(canvas, figure, movement, (left, top))


def _bars(canvas: Canvas, axes: Axes, counts: Sequence[int], most: int) -> None:
    axes.bar(_places(len(counts)), counts, _SLOT / (len(counts) - 1), color=canvas.colours["stay"])
    half = 0.5 / (len(counts) - 1)
    axes.set_xlim(-half, 1 + half)
    axes.set_ylim(0, most * 1.2)
    axes.set_axis_off()


def _numbers(canvas: Canvas, axes: Axes, counts: Sequence[int], upwards: bool) -> None:
    if len(counts) > _MOST_NUMBERS:
        return
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


def _weights(canvas: Canvas, axes: Axes, movement: dict[str, Any], most: float) -> None:
    """The weight in force over the histogram, on an axis of its own that begins at 0."""
    if not movement["weights"] or most <= 0:
        return
    over = _over(axes)
    over.set_ylim(0, most * 1.3)
    colour = canvas.colours["weight"]
    if movement["curve"]:
        p, weight = zip(*movement["curve"], strict=True)
        over.fill_between(p, weight, color=colour, alpha=0.10, linewidth=0)
        over.plot(p, weight, color=colour, linewidth=1.6)
    p, weight = zip(*movement["weights"], strict=True)
    over.plot(
        p,
        weight,
        color=colour,
        linewidth=1.2,
        linestyle="none" if movement["curve"] else (0, (3, 2)),
        marker="o",
        markersize=4,
        markeredgecolor=canvas.colours["surface"],
        markeredgewidth=0.8,
        clip_on=False,
    )
    over.annotate(
        f"weight {movement['weight_label']}", (0.5, max(weight)), xytext=(0, 5), textcoords="offset points",
        ha="center", va="bottom", fontsize=8.5, color=colour,
    )  # fmt: skip


def _over(axes: Axes) -> Axes:
    """Axes on top of these, with the same limits."""
    over = axes.twinx()
    over.set_axis_off()
    over.set_ylim(axes.get_ylim())
    return over


def _words(canvas: Canvas, figure: Figure, movement: dict[str, Any], corner: tuple[float, float]) -> None:
    """What moved, in the colours of the ribbons; and which histogram is which."""
    left, top = corner
    for x, colour, text in (
        (0, "up", f"▲ {movement['up']} up"),
        (92, "down", f"▼ {movement['down']} down"),
        (198, "muted", f"{movement['same']} the same"),
    ):
        weight = "normal" if colour == "muted" else "bold"
        _write(canvas, figure, text, (left + x, top + 6), colour, fontsize=9, fontweight=weight)
    _write(canvas, figure, "before", (left, top + 28), "muted", fontsize=8.5)
    _write(canvas, figure, "after", (left, top + _HEAD + 2 * _BARS + _FLOW + 20), "muted", fontsize=8.5)


def _write(
    canvas: Canvas, figure: Figure, text: str, place: tuple[float, float], colour: str = "ink", **font: Any
) -> None:
    """Text whose top left corner is at a place in CSS pixels from the figure's."""
    x, y = place[0] / canvas.width, 1 - place[1] / (figure.get_figheight() / PX)
    figure.text(x, y, text, color=canvas.colours[colour], va="top", **font)


def _scale(canvas: Canvas, axes: Axes, ks: int) -> None:
    """The number of correct attempts, under a histogram."""
    step = 1 if ks <= _MOST_NUMBERS else ks // 8
    for k in range(0, ks, step):
        axes.annotate(
            str(k), (k / (ks - 1), 0), xycoords=("data", "axes fraction"), xytext=(0, -2),
            textcoords="offset points", ha="center", va="top", fontsize=9, color=canvas.colours["ink"],
        )  # fmt: skip
    axes.annotate(
        f"correct attempts of {ks - 1}", (0.5, 0), xycoords="axes fraction", xytext=(0, -16),
        textcoords="offset points", ha="center", va="top", fontsize=8.5, color=canvas.colours["muted"],
    )  # fmt: skip


def _places(count: int) -> list[float]:
    """k / K for every k."""
    return [k / (count - 1) for k in range(count)]
