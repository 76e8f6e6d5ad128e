"""The loss over steps, or over the budget: an arm a colour, a seed a thin line, their mean a thick one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from paced_megatron.report.palette import ARM_COLOURS
from paced_megatron.report.pictures.canvas import Canvas

_LEFT, _TOP, _BOTTOM, _LABEL_PX = 52, 34, 40, 7.2
_SIDE = 2.0
_MOST_POINTS = 600  # of a line
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))


def arm_style(canvas: Canvas, number: int) -> dict[str, Any]:
    """Colour and dashes of the arm with this number, from 0; the seventh has the first's colour again."""
    colour = canvas.colours[ARM_COLOURS[number % len(ARM_COLOURS)]]
    return {"color": colour, "linestyle": LINES[number % len(LINES)]}


def draw_loss(canvas: Canvas, losses: Sequence[dict[str, Any]]) -> Figure:
    """A panel for the loss.

    Args:
        losses: `content["loss"]`: per arm its name, mean over seeds ([step, loss], a null where it is not
            finite), and the same per seed.
    """
    names = [loss["arm"] for loss in losses]
    rows = legend_rows(canvas, names)
    top = _TOP + 18 * len(rows) if len(names) > 1 else 16
    height = (220 if canvas.is_narrow else 250) + top
    figure = canvas.figure(height)
    axes = canvas.axes(figure, _LEFT, top, canvas.width - _LEFT - 14, height - top - _BOTTOM)
    losses = as_drawn(losses)
    plot_curves(canvas, axes, losses, log=True)  # arms lie far apart, and a loss falls by factors
    course_axis(axes, losses, ticks=5 if canvas.is_narrow else 10)
    if len(names) > 1:
        legend(canvas, figure, names, top=8)
    stage_borders(canvas, axes, losses)
    return figure


def as_drawn(curves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves over what they are drawn over: the budget spent where they have that, else steps."""
    return [curve | (curve["by_budget"] or {}) for curve in curves]


def course_axis(axes: Axes, curves: Sequence[dict[str, Any]], ticks: int) -> None:
    """Ticks and name of the axis along which training goes."""
    over_steps = not any(curve["by_budget"] for curve in curves)
    several = any(len(curve["stages"]) > 1 for curve in curves)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=over_steps))
    if over_steps:
        axes.set_xlabel("optimizer step")
    else:
        axes.set_xlabel("budget spent, 1 for each stage" if several else "share of the budget spent")


def plot_curves(canvas: Canvas, axes: Axes, curves: Sequence[dict[str, Any]], log: bool) -> None:
    """A line for each arm's mean, and a thin one for each seed where there are several.

    Args:
        curves: records as in `content["loss"]`.
        log: whether the axis is logarithmic; it never is where a mean is not above 0.
    """
    for number, curve in enumerate(curves):
        style = arm_style(canvas, number)
        if len(curve["seeds"]) > 1:
            for seed in curve["seeds"]:
                axes.plot(*_columns(seed["points"]), color=style["color"], linewidth=0.6, alpha=0.45)
        axes.plot(*_columns(curve["mean"]), linewidth=1.9, **style)
    lowest = min((value for curve in curves for _, value in curve["mean"] if value is not None), default=0.0)
    if log and lowest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5), numticks=8))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.01)
    axes.grid(axis="y", color=canvas.colours["line"], linewidth=0.75)
    axes.spines["left"].set_visible(False)


def legend(
    canvas: Canvas,
    figure: Figure,
    names: Sequence[str],
    top: float,
    markers: Sequence[str] = (),
    before: str | None = None,
) -> None:
    """Names of arms with their line or marker, in rows that fit the width; above the picture, not in it.

    `before` names the student before training, which is drawn as an upright line.
    """
    height = figure.get_figheight() * 96
    overlay = figure.add_axes((0, 0, 1, 1))
    overlay.set_axis_off()
    overlay.set_xlim(0, canvas.width)
    overlay.set_ylim(height, 0)
    number = 0
    for row, entries in enumerate(legend_rows(canvas, [*names, *([before] if before else [])])):
        x, y = _SIDE, top + 18 * row + 8
        for name in entries:
            _key(canvas, overlay, number, x, y, markers, is_before=number == len(names))
            overlay.text(x + 30, y, name, va="center", fontsize=9, color=canvas.colours["ink"])
            x, number = x + _entry_width(name), number + 1


def _key(
    canvas: Canvas, overlay: Axes, number: int, x: float, y: float, markers: Sequence[str], is_before: bool
) -> None:
    if is_before:
        overlay.plot([x + 16, x + 16], [y - 7, y + 7], linewidth=1.8, color=canvas.colours["before"])
        return
    style = arm_style(canvas, number)
    if not markers:
        overlay.plot([x, x + 24], [y, y], linewidth=2.2, **style)
        return
    overlay.plot([x + 2, x + 24], [y, y], linewidth=1.6, color=style["color"])
    overlay.plot(
        [x + 13], [y], marker=markers[number % len(markers)], markersize=6, color=style["color"],
        markeredgecolor=canvas.colours["surface"], markeredgewidth=0.8,
    )  # fmt: skip


def legend_rows(canvas: Canvas, names: Sequence[str]) -> list[list[str]]:
    """The names in rows that fit the canvas."""
    rows: list[list[str]] = [[]]
    x = _SIDE
    for name in names:
        if rows[-1] and x + _entry_width(name) > canvas.width:
            rows.append([])
            x = _SIDE
        rows[-1].append(name)
        x += _entry_width(name)
    return rows


def _entry_width(name: str) -> float:
    return 30 + _LABEL_PX * len(name) + 18


def _columns(points: Sequence[Sequence[float | None]]) -> tuple[list[float], list[float]]:
    """Places and values; one that is not finite leaves a gap."""
    points = _thinned(points)
    return [place or 0 for place, _ in points], [math.nan if y is None else y for _, y in points]


def _thinned(points: Sequence[Sequence[float | None]]) -> list[Sequence[float | None]]:
    """Where there are more steps than a screen can show, the lowest and the highest of every few that follow
    one another, and any that is not finite: the line covers what it did, in few of the page's bytes."""
    few = -(-2 * len(points) // _MOST_POINTS)
    if few < 3:
        return list(points)
    kept = []
    for at in range(0, len(points), few):
        group = points[at : at + few]
        finite = [(value, step) for step, value in group if value is not None]
        ends = {min(finite)[1], max(finite)[1]} if finite else set()
        kept += [point for point in group if point[1] is None or point[0] in ends]
    return kept


def stage_borders(canvas: Canvas, axes: Axes, losses: Sequence[dict[str, Any]]) -> None:
    """Where stages begin; each arm's in its colour, one label below another, where arms differ in it."""
    alike = all(loss["stages"] == losses[0]["stages"] for loss in losses)
    for number, loss in enumerate(losses[:1] if alike else losses):
        colour = canvas.colours["muted"] if alike else arm_style(canvas, number)["color"]
        for step, stage in loss["stages"][1:]:
            axes.axvline(step, color=colour, linewidth=0.75, linestyle=(0, (2, 2)))
            axes.annotate(
                f"stage {stage}", (step, 1), xycoords=("data", "axes fraction"), xytext=(4, -2 - 10 * number),
                textcoords="offset points", va="top", fontsize=8, color=colour,
            )  # fmt: skip
