r"""What the text of two mathematical answers settles without computing: most pairs, in our own process.

Nothing here evaluates anything: regular expressions, int() and Fraction() of digits. What is left over goes
to `math_equal.py`, in a worker process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from paced_megatron.problems.answers import plain, unwrapped
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.units import without_units

MAX_CHARACTERS = 2_000  # what is longer is no final answer, and reading it would cost seconds
MAX_DIGITS = 1_000  # int() takes a time that grows with the square of the digits

WRAPPER = re.compile(
    r"\\(?:text|mbox|textbf|textit|mathrm|mathbf|boxed|fbox)\s*\{([^{}]*)\}|\{([^{}]*)\}|\*\*(.*)\*\*"
)
TEXT = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm)\s*\{\s*([A-Za-z ]+?)\s*\}")
# To math-verify a bare word is a product of letters: "seat" would equal "east". Three may be one (lwh).
WORD = re.compile(r"[A-Za-z]{4,}")
CHOICE = re.compile(r"\(([A-H])\)|([A-H])")
CHOICE_WITH_MORE = re.compile(r"\(?([A-H])[):.].+", re.DOTALL)  # (C) 12
BASED = re.compile(r"([0-9A-Za-z]+)_\{?(\d{1,2})\}?")  # a numeral with its base, 2516_8
DIGITS = re.compile(r"[0-9A-Za-z]*[0-9][0-9A-Za-z]*")
PERCENT = re.compile(r"\\?%$|percent(?:age)?$")

GROUPED = re.compile(r"(\d{1,3}(?:[ ,]\d{3})+)(\.\d+)?")  # 10,000 or 10 000
SPACED_COMMA = re.compile(r",(?:\s|\\[ ;:])")  # 100, 200 is a list; 100,200 may be a number
MIXED = re.compile(r"(\d+) (\d+)/(\d+)")  # 5 1/2
NUMBER = re.compile(r"(?:\d+\.?|\d*\.\d+)(?:[eE][-+]?\d{1,2})?")
FRACTION = re.compile(r"(\d*)\\frac(?:\{(-?\d+)\}|(\d))(?:\{(-?\d+)\}|(\d))|(-?\d+)/(\d+)")

Rule = Callable[[str, str], Outcome | None]


def settle(answer: str, gold: str) -> Outcome | None:
    """The verdict that the text of both gives, or None where they have to be read as formulas."""
    if answer.strip() == gold.strip():
        return Outcome.CORRECT
    if len(answer) > MAX_CHARACTERS:
        return Outcome.UNPARSABLE
    if len(gold) > MAX_CHARACTERS:
        return Outcome.INCORRECT  # such a gold answer is compared as text only
    if plain(answer) == plain(gold) != "":
        return Outcome.CORRECT
    for rule in RULES:
        outcome = rule(answer, gold)
        if outcome is not None:
            return outcome
    return None


def tidy(answer: str) -> str:
    r"""The answer without what merely encloses all of it: $...$, \text{...}, \boxed{...}, braces, **...**."""
    while True:
        inner = unwrapped(answer)
        match = WRAPPER.fullmatch(inner)
        if match:
            inner = next(group for group in match.groups() if group is not None).strip()
        if inner == answer:
            return answer
        answer = inner


def rational(answer: str) -> Fraction | None:
    r"""The value of 12, 1,200, .5, 1/2, \frac12, 1\frac{1}{2} and the like, exactly; None for all else."""
    if SPACED_COMMA.search(tidy(answer)):
        return None
    text = plain(tidy(answer)).replace("{,}", ",")
    if len(text) > MAX_DIGITS:
        return None
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").removeprefix("+")
    grouped = GROUPED.fullmatch(text)
    if grouped:
        text = re.sub("[ ,]", "", text)
    if NUMBER.fullmatch(text):
        return sign * Fraction(text)
    mixed = MIXED.fullmatch(text)
    if mixed:
        whole, above, below = map(int, mixed.groups())
        return sign * (whole + Fraction(above, below)) if below else None
    match = FRACTION.fullmatch(text)
    if not match:
        return None
    before, *parts = match.groups()
    above, below = (int(part) for part in parts if part is not None)
    return sign * (int(before or 0) + Fraction(above, below)) if below else None


def _same_tidy(answer: str, gold: str) -> Outcome | None:
    return Outcome.CORRECT if plain(tidy(answer)) == plain(tidy(gold)) != "" else None


def _words(answer: str, gold: str) -> Outcome | None:
    """Words are compared letter by letter, whatever the case."""
    texts = [TEXT.fullmatch(unwrapped(text)) for text in (answer, gold)]
    left, right = plain(tidy(answer)), plain(tidy(gold))
    words = bool(WORD.fullmatch(left) and WORD.fullmatch(right))
    if words or (any(texts) and left.isalpha() and right.isalpha()):
        return _correct_if(left.lower() == right.lower())
    if (WORD.fullmatch(left) and rational(gold) is not None) or (
        WORD.fullmatch(right) and rational(answer) is not None
    ):
        return Outcome.INCORRECT
    return None


def _choices(answer: str, gold: str) -> Outcome | None:
    """(C), C and "(C) 12" choose the same."""
    right = CHOICE.fullmatch(plain(tidy(gold)))
    left = CHOICE.fullmatch(plain(tidy(answer))) or CHOICE_WITH_MORE.fullmatch(plain(answer))
    if not (left and right):
        return None
    return _correct_if("".join(filter(None, left.groups())) == "".join(filter(None, right.groups())))


def _numerals(answer: str, gold: str) -> Outcome | None:
    """math-verify drops a subscript: it would take 2516_9 for 2516_8, and 110_2 for 110.

    A gold answer with a base is the answer to a question that named it: its digits alone are right. An answer
    with a base, where the gold one has none, counts by its value.
    """
    left, right = BASED.fullmatch(plain(answer)), BASED.fullmatch(plain(gold))
    if left and right:
        same = _digits(left.group(1)) == _digits(right.group(1))
        return _correct_if(same and int(left.group(2)) == int(right.group(2)))
    if right and DIGITS.fullmatch(plain(answer)):
        return _correct_if(_digits(plain(answer)) == _digits(right.group(1)))
    value = rational(gold)
    if left and value is not None and 2 <= int(left.group(2)) <= 36:
        try:
            return _correct_if(int(left.group(1), int(left.group(2))) == value)
        except ValueError:
            return Outcome.INCORRECT  # 129_2 is no numeral
    return None


def _numbers(answer: str, gold: str) -> Outcome | None:
    """Exact values. Whether a decimal is near enough to another number is left to the worker."""
    left, right = rational(answer), rational(gold)
    if left is None or right is None:
        return None
    if left == right:
        return Outcome.CORRECT
    # A comma may as well part two numbers, in whatever order.
    return None if any(sign in text for sign in ".," for text in (answer, gold)) else Outcome.INCORRECT


def _percent(answer: str, gold: str) -> Outcome | None:
    """50%, 50 and 0.5 are the same where one of them says percent: what was asked for is not known here."""
    texts = [plain(tidy(text)) for text in (answer, gold)]
    percent = [bool(PERCENT.search(text)) for text in texts]
    values = [rational(PERCENT.sub("", text)) for text in texts]
    if not any(percent) or None in values:
        return None
    left, right = (value for value in values if value is not None)
    if left == right:
        return Outcome.CORRECT
    if all(percent):
        return None  # 33.333333% and 33 1/3 %: near enough is the worker's to say
    scaled = (left / 100 == right) if percent[0] else (left == right / 100)
    return Outcome.CORRECT if scaled else None


def _units(answer: str, gold: str) -> Outcome | None:
    """Where both have a unit that we know: 5 cm is not 5 m, and 500 cm is."""
    given, wanted = without_units(answer), without_units(gold)
    if given is None or wanted is None:
        return None
    (left, from_unit), (right, to_unit) = given, wanted
    if from_unit.dimension != to_unit.dimension:
        return Outcome.INCORRECT
    values = rational(left), rational(right)
    if values[0] is None or values[1] is None:
        return None if from_unit == to_unit else Outcome.INCORRECT
    if values[0] * from_unit.size == values[1] * to_unit.size:
        return Outcome.CORRECT
    return None if from_unit == to_unit and "." in left + right else Outcome.INCORRECT


def _correct_if(equal: bool) -> Outcome:
    return Outcome.CORRECT if equal else Outcome.INCORRECT


def _digits(numeral: str) -> str:
    return numeral.upper().lstrip("0") or "0"


RULES: tuple[Rule, ...] = (_words, _same_tidy, _choices, _numerals, _numbers, _percent, _units)
