"""What each optimizer step did beside its loss: a small panel for each number, over the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paced_megatron.report.pictures.canvas import Canvas
from paced_megatron.report.pictures.loss import legend, legend_rows, plot_curves, stage_borders
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
    last = max(step for curve in curves for arm in curve["arms"] for step, _ in arm["mean"])
    for number, curve in enumerate(curves):
        row, column = divmod(number, columns)
        left, above = _LEFT + column * (width + _BETWEEN), top + row * panel + _TITLE
        axes = canvas.axes(figure, left, above, width, _PLOT)
        plot_curves(canvas, axes, curve["arms"], log=curve["name"] in _LOGARITHMIC)
        axes.set_xlim(1 - 0.01 * last, 1.01 * last)
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.annotate(
            CURVE_NAMES[curve["name"]], (0, 1), xycoords="axes fraction", xytext=(0, 8),
            textcoords="offset points", fontsize=9, fontweight="bold", color=canvas.colours["ink"],
        )  # fmt: skip
        axes.set_xlabel("optimizer step")
        stage_borders(canvas, axes, curve["arms"])
    if len(names) > 1:
        legend(canvas, figure, names, top=4)
    return figure
