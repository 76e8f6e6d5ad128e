"""The unit at the end of an answer, for those that are known here. Another one is a row in the table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# name -> (what is measured, how many of the first unit of that kind it is)
SIZES: dict[str, tuple[str, Fraction]] = {
    "mm": ("length", Fraction(1, 1000)),
    "cm": ("length", Fraction(1, 100)),
    "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)),
    "in": ("length", Fraction(254, 10_000)),
    "ft": ("length", Fraction(3048, 10_000)),
    "yd": ("length", Fraction(9144, 10_000)),
    "mi": ("length", Fraction(1_609_344, 1000)),
    "s": ("time", Fraction(1)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
    "day": ("time", Fraction(86_400)),
    "week": ("time", Fraction(604_800)),
    "mg": ("mass", Fraction(1, 1000)),
    "g": ("mass", Fraction(1)),
    "kg": ("mass", Fraction(1000)),
    "cent": ("money", Fraction(1, 100)),
    "dollar": ("money", Fraction(1)),
    "ml": ("volume", Fraction(1, 1000)),
    "l": ("volume", Fraction(1)),
}
OTHER_NAMES = {
    "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm", "meter": "m",
    "metre": "m", "kilometer": "km", "kilometre": "km", "inch": "in", "inches": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mile": "mi", "sec": "s", "second": "s", "minute": "min", "hr": "h",
    "hour": "h", "milligram": "mg", "gram": "g", "kilogram": "kg", "milliliter": "ml", "mL": "ml",
    "liter": "l",
    "litre": "l", "L": "l",
}  # fmt: skip
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

AT_THE_END = re.compile(
    r"(?P<value>.*?[\d}])(?:\\[ ,;!]|[~\s])*"
    r"(?:\\(?:text|mbox|mathrm|textrm)\s*\{\s*(?P<text>[A-Za-z. ]+?)\s*\}|(?P<bare>[A-Za-z][A-Za-z. ]*?))"
    r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?",
    re.DOTALL,
)

DOLLARS = re.compile(r"\\\$\s*(?P<value>\d[\d,.]*)")  # \$5; a bare $ may begin a formula


@dataclass(frozen=True)
class Unit:
    dimension: tuple[str, int]  # ("length", 2) is an area
    size: Fraction


def without_units(answer: str) -> tuple[str, Unit] | None:
    r"""(5, cm) from 5\text{ cm}; None without a unit at the end, or with one that is not in the table."""
    money = DOLLARS.fullmatch(answer.strip())
    if money:
        return money["value"], Unit(("money", 1), Fraction(1))
    match = AT_THE_END.fullmatch(answer.strip().removesuffix("."))
    if not match:
        return None
    *prefix, name = (match["text"] or match["bare"]).replace(".", " ").split() or [""]
    powers = [POWERS.get(word) for word in prefix] + ([int(match["power"])] if match["power"] else [])
    name = OTHER_NAMES.get(name) or OTHER_NAMES.get(name.removesuffix("s")) or name
    kind, size = SIZES.get(name) or SIZES.get(name.removesuffix("s")) or (None, Fraction(0))
    if kind is None or len(powers) > 1 or None in powers:
        return None
    power = next((power for power in powers if power), 1)
    return match["value"], Unit((kind, power), size**power)
