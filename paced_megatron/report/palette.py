"""The report's colours, each with a value for light and for dark, and tokens that stand for them in an SVG.

A picture is drawn once per width with tokens, and an SVG's tokens become CSS variables: so one SVG serves
both themes. A PNG is drawn with the light values. Hues are those that colour-blind readers tell apart (after
Okabe and Ito), darkened or lightened until text in them has a contrast of 4.5 with its ground; what a colour
says is said by a label, a marker or a direction too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Palette = Mapping[str, str]

LIGHT: Palette = {
    "page": "#f6f5f2",
    "surface": "#ffffff",
    "ink": "#1c2330",
    "muted": "#5a6472",
    "line": "#dfe2e6",
    "before": "#69737f",
    "stay": "#b4bbc4",
    "up": "#0a7285",
    "down": "#bf4a17",
    "weight": "#7b3f98",
    "arm-1": "#0b5fa5",
    "arm-2": "#8a6100",
    "arm-3": "#b3346f",
    "arm-4": "#12785a",
    "arm-5": "#7b3f98",
    "arm-6": "#59636f",
}

DARK: Palette = {
    "page": "#0f1217",
    "surface": "#171b22",
    "ink": "#e9ebee",
    "muted": "#a4adb9",
    "line": "#2f3640",
    "before": "#8f99a6",
    "stay": "#59636f",
    "up": "#4cc0d2",
    "down": "#f58b5a",
    "weight": "#cd96e6",
    "arm-1": "#6db2f3",
    "arm-2": "#deb04a",
    "arm-3": "#f288b8",
    "arm-4": "#4fc79c",
    "arm-5": "#cd96e6",
    "arm-6": "#a4adb9",
}

ARM_COLOURS = tuple(name for name in LIGHT if name.startswith("arm-"))

# Colours nobody would choose, which matplotlib writes into the SVG as they are: #0b0b00, #0b0b01, ...
TOKENS: Palette = {name: f"#0b0b{number:02x}" for number, name in enumerate(LIGHT)}
_NAMES = {token: name for name, token in TOKENS.items()}


def with_css_variables(svg: str) -> str:
    """The SVG with `var(--name)` for every token."""
    return re.sub("#0b0b[0-9a-f]{2}", lambda match: f"var(--{_NAMES[match[0]]})", svg)


def css_variables(palette: Palette) -> str:
    """`--name: value;` for each colour."""
    return " ".join(f"--{name}: {value};" for name, value in palette.items())
