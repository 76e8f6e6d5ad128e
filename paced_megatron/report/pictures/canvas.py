"""A figure and how it becomes an SVG for the page, or a PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from paced_megatron.report.palette import LIGHT, TOKENS, Palette, with_css_variables

PX = 1 / 96  # inches in a CSS pixel
WIDE, NARROW = 840, 350  # CSS pixels: a page on a desk, a phone
PNG_SCALE = 2

# Text stays text: it can be read aloud, searched and copied, and takes the page's font. The salt and the
# missing date make the same numbers the same bytes.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "paced",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.75,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
}


@dataclass(frozen=True)
class Canvas:
    """What a picture is drawn on: `width` in CSS pixels, and its colours by name."""

    width: int
    colours: Palette

    @property
    def is_narrow(self) -> bool:
        return self.width < 600

    def figure(self, height: float) -> Figure:
        """An empty figure of the canvas's width and this height, in CSS pixels."""
        return Figure(figsize=(self.width * PX, height * PX), facecolor=self.colours["surface"])

    def axes(self, figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place given in CSS pixels from the figure's top left corner."""
        whole = figure.get_figheight() / PX
        box = (left / self.width, 1 - (top + height) / whole, width / self.width, height / whole)
        axes = figure.add_axes(box)
        self.dress(axes)
        return axes

    def dress(self, axes: Axes) -> None:
        """Quiet axes: thin lines, muted text."""
        axes.set_facecolor("none")
        for spine in axes.spines.values():
            spine.set_color(self.colours["line"])
        axes.tick_params(colors=self.colours["muted"], labelcolor=self.colours["muted"], pad=4)
        axes.xaxis.label.set_color(self.colours["muted"])
        axes.yaxis.label.set_color(self.colours["muted"])


Draw = Callable[[Canvas], Figure]


def svg(draw: Draw, width: int, prefix: str) -> str:
    """The picture as an `<svg>` element for a page: colours are CSS variables, ids begin with `prefix`.

    It is decoration to a screen reader (`aria-hidden`): the figure around it carries the words.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = draw(Canvas(width, TOKENS))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the family is the page's
    text = re.sub(r"(font: [^;\"]*px) [^;\"]*", r"\1 sans-serif", text)
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL)  # it would style the whole page
    text = re.sub(r"\s*\n\s*(?=[A-Zz\"])", " ", text)  # a path in one line
    text = re.sub(r'(?<= d=")[^"]*', _rounded, text)
    height = round(figure.get_figheight() / PX)
    text = re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        rf'<svg \1 style="--width: {width}px; aspect-ratio: {width} / {height}" aria-hidden="true">',
        text,
        count=1,
        flags=re.DOTALL,
    )
    return with_css_variables(text).strip()


def _rounded(path: re.Match[str]) -> str:
    """A hundredth of a point is finer than any screen, and half the bytes."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path[0])


def png(draw: Draw, width: int = WIDE) -> bytes:
    """The picture as a PNG, light, two device pixels to a CSS pixel."""
    with matplotlib.rc_context(_SETTINGS):
        figure = draw(Canvas(width, LIGHT))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=PNG_SCALE / PX, metadata={"Software": None})
    small = io.BytesIO()  # 256 colours are plenty for these, and a third of the bytes
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()
