"""What each optimizer step did beside its loss: a small panel for each number, laid out as the loss is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from paced_megatron.report.pictures.canvas import Canvas
from paced_megatron.report.pictures.loss import (
    as_drawn,
    course_axis,
    legend,
    legend_rows,
    plot_curves,
    stage_borders,
)
from paced_megatron.report.wording import CURVE_NAMES

_LEFT, _BETWEEN, _TITLE, _PLOT, _FOOT = 58, 66, 26, 130, 44  # in CSS pixels
_LOGARITHMIC = ("grad_norm",)


def draw_steps(canvas: Canvas, curves: Sequence[dict[str, Any]]) -> Figure:
    """A panel for each of `content["steps"]`, two side by side where there is room."""
    names = [curve["arm"] for curve in curves[0]["arms"]]
    top = 12 + 18 * len(legend_rows(canvas, names)) if len(names) > 1 else 0
    columns = 1 if canvas.is_narrow else 2
    panel = _TITLE + _PLOT + _FOOT
    figure = canvas.figure(top + panel * -(-len(curves) // columns))
    width = (canvas.width - _LEFT - 14 - (columns - 1) * _BETWEEN) / columns
    drawn = [curve | {"arms": as_drawn(curve["arms"])} for curve in curves]
    first = 0 if curves[0]["arms"][0]["by_budget"] else 1
    last = max(place for curve in drawn for arm in curve["arms"] for place, _ in arm["mean"])
    for number, curve in enumerate(drawn):
        row, column = divmod(number, columns)
        left, above = _LEFT + column * (width + _BETWEEN), top + row * panel + _TITLE
        axes = canvas.axes(figure, left, above, width, _PLOT)
        plot_curves(canvas, axes, curve["arms"], log=curve["name"] in _LOGARITHMIC)
        axes.set_xlim(first - 0.01 * last, 1.01 * last)
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        course_axis(axes, curve["arms"], ticks=5)
        axes.annotate(
            CURVE_NAMES[curve["name"]], (0, 1), xycoords="axes fraction", xytext=(0, 8),
            textcoords="offset points", fontsize=9, fontweight="bold", color=canvas.colours["ink"],
        )  # fmt: skip
        stage_borders(canvas, axes, curve["arms"])
    if len(names) > 1:
        legend(canvas, figure, names, top=4)
    return figure
