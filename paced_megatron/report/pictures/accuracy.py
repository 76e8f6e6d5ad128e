"""Accuracy before and after: a row for each group of problems, in it a mark and its interval for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paced_megatron.report.pictures.canvas import Canvas
from paced_megatron.report.pictures.loss import arm_style, legend, legend_rows
from paced_megatron.report.wording import group_label, kind_label

_MARKERS = ("o", "s", "D", "^", "v", "P")
_MARK, _ROW_GAP, _HEADING, _FOOT = 13, 14, 34, 40  # heights in CSS pixels
_LABEL_PX = 96


def draw_accuracy(canvas: Canvas, measures: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    """The accuracy before as an upright line in each row, after as a mark per arm.

    Args:
        measures: chosen records of `content["accuracy"]`; a heading goes above each new problem set or
            decoding.
        names: of the arms, in the order of each record's.
    """
    row = _MARK * len(names) + _ROW_GAP
    kinds = [(each["problem_set"], each["decoding"]) for each in measures]
    headings = [at == 0 or kinds[at] != kinds[at - 1] for at in range(len(kinds))]
    top = 12 + 18 * len(legend_rows(canvas, [*names, "before"]))
    height = top + len(measures) * row + sum(headings) * _HEADING + _FOOT
    figure = canvas.figure(height)
    axes = canvas.axes(figure, _LABEL_PX, top, canvas.width - _LABEL_PX - 22, height - top - _FOOT)
    axes.set_xlim(-1, 101)
    axes.set_ylim(height - top - _FOOT, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=canvas.colours["line"], linewidth=0.75)
    y = 0.0
    for measure, has_heading in zip(measures, headings, strict=True):
        if has_heading:
            _heading(canvas, axes, measure, y)
            y += _HEADING
        _row(canvas, axes, measure, y, row)
        y += row
    axes.set_xlabel("accuracy, %")
    legend(canvas, figure, names, top=2, markers=_MARKERS, before="before")
    return figure


def _heading(canvas: Canvas, axes: Axes, measure: dict[str, Any], y: float) -> None:
    left = -1 - (_LABEL_PX - 2) / (canvas.width - _LABEL_PX - 22) * 102
    axes.text(
        left, y + _HEADING - 11, kind_label(measure), fontsize=9, fontweight="bold",
        color=canvas.colours["ink"], va="center",
    )  # fmt: skip


def _row(canvas: Canvas, axes: Axes, measure: dict[str, Any], y: float, row: float) -> None:
    colours, before = canvas.colours, measure["before"]
    top, bottom = y + 3, y + row - 3
    if before["low"] is not None:
        low, high = 100 * before["low"], 100 * before["high"]
        axes.fill_betweenx([top, bottom], low, high, color=colours["before"], alpha=0.16, linewidth=0)
    if before["mean"] is not None:
        axes.plot([100 * before["mean"]] * 2, [top, bottom], color=colours["before"], linewidth=1.8)
    axes.annotate(
        group_label(measure), (0, (y + y + row) / 2), xycoords=("axes fraction", "data"), xytext=(-8, 0),
        textcoords="offset points", ha="right", va="center", fontsize=9, color=colours["ink"],
    )  # fmt: skip
    for number, entry in enumerate(measure["arms"]):
        after = entry["after"]
        at, colour = y + _ROW_GAP / 2 + _MARK * (number + 0.5), arm_style(canvas, number)["color"]
        if after["mean"] is None:
            continue
        if after["low"] is not None:
            ends = [100 * max(after["low"], 0), 100 * min(after["high"], 1)]
            axes.plot(ends, [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(
            [100 * after["mean"]], [at], marker=_MARKERS[number % len(_MARKERS)], markersize=6, color=colour,
            markeredgecolor=colours["surface"], markeredgewidth=0.8, clip_on=False, zorder=4,
        )  # fmt: skip
