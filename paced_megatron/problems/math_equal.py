r"""Whether two answers are equal in value, by math-verify under a time limit; runs in a worker process only.

Only math-verify's LaTeX reader is used, a grammar. Its reader of bare expressions goes through sympy's
parse_expr, which evaluates text as Python; an answer such as 1/2 is read by the grammar just as well.
(Numbers do reach eval by the grammar too: see verifier_worker.py, which lets nothing else through.)
"""

from __future__ import annotations

import logging
import random
import re
from functools import lru_cache
from typing import Any

import math_verify
import sympy

from paced_megatron.problems.math_text import tidy
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.time_limit import OutOfTime, time_limit
from paced_megatron.problems.units import SIZES

# We put one limit around both readings and the comparison, and switch math-verify's own off (whole seconds,
# one for each step, and on the same SIGALRM). It would warn about that.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# How near two numbers have to be, in proportion. math-verify rounds to six places, and takes 0.0000001 for
# 0.0000002, and 2^{-99} for 2^{-98}.
EXACT, ROUNDED, NEARLY = 1e-12, 1e-4, 1e-3
DIGITS = 30

# math-verify drops a unit at the end, and takes the t of 3t for one. In braces it is left alone.
LETTER_AT_THE_END = re.compile(r"(?<=\d)([A-Za-z])$")
TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}")
VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")

SAME_SIGNS = (
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"^([-+]?)infinity$"), r"\1\\infty"),
)


def judge_value(answer: str, gold: str, timeout_s: float) -> Outcome:
    """CORRECT, INCORRECT, UNPARSABLE (not a formula) or TIMED_OUT (over timeout_s, all steps together).

    A gold answer that math-verify cannot read is compared as text only. In the main thread only.
    """
    try:
        with time_limit(timeout_s):
            return _compare(answer, gold)
    except (OutOfTime, MemoryError):
        return Outcome.TIMED_OUT


def _compare(answer: str, gold: str) -> Outcome:
    formulas = all(VARIABLE.search(TEXT.sub("", text)) for text in (answer, gold))
    gold_value = _parse(gold, formulas)
    if not gold_value:
        return Outcome.INCORRECT
    answer_value = _parse(answer, formulas)
    if not answer_value:
        return Outcome.UNPARSABLE
    left, right = answer_value[0], gold_value[0]
    expressions = isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)
    if expressions and not _near(left, right, NEARLY):
        return Outcome.INCORRECT  # what math-verify would find with simplify(), which takes long
    # The order matters: math-verify follows the gold answer's form.
    equal = math_verify.verify(gold_value, answer_value, allow_set_relation_comp=True, timeout_seconds=None)
    if expressions:
        rounded = left.has(sympy.Float) or right.has(sympy.Float)
        equal = _near(left, right, ROUNDED if rounded else EXACT) if equal else _same_function(left, right)
    return Outcome.CORRECT if equal else Outcome.INCORRECT


@lru_cache(maxsize=4096)  # a problem's answer comes once for each attempt
def _parse(answer: str, formula: bool) -> list[Any]:
    """The answer as math-verify's list of values; empty when it cannot be read (its own errors included).

    formula: a letter at its end is no unit, even if there is a unit of that name.
    """
    text = tidy(answer)
    letter = LETTER_AT_THE_END.search(text)
    if letter and (formula or letter[1] not in SIZES):
        text = LETTER_AT_THE_END.sub(r"{\1}", text)
    for pattern, replacement in SAME_SIGNS:
        text = pattern.sub(replacement, text)
    return math_verify.parse(
        rf"\boxed{{{text}}}",
        [math_verify.LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )


def _near(left: sympy.Expr, right: sympy.Expr, tolerance: float) -> bool:
    """Whether two numbers are near in proportion. True where one of both is none."""
    if left == right or left.free_symbols or right.free_symbols:
        return True
    a, b = _number(left), _number(right)
    if a is None or b is None:
        return True
    if left.has(sympy.UnevaluatedExpr) or right.has(sympy.UnevaluatedExpr):
        return True  # a percentage, which may be given as 50 or as 0.5
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))


def _same_function(left: sympy.Expr, right: sympy.Expr) -> bool:
    r"""Equal at every one of 8 points where both are real, and real at the same: \sqrt{1/n}, 1/\sqrt{n}.

    simplify() finds no proof where that needs n > 0. |x| is not x: they differ at a negative point.
    """
    imaginary = {name: sympy.I for name in left.free_symbols | right.free_symbols if name.name == "i"}
    left, right = left.subs(imaginary), right.subs(imaginary)
    names = left.free_symbols
    if names != right.free_symbols:
        return False
    if not names:
        return bool(imaginary) and _near(left, right, EXACT)
    draw, real = random.Random(0), 0
    for _ in range(8):
        point = {name: draw.uniform(-4, 4) for name in sorted(names, key=str)}
        values = [_number(side.subs(point)) for side in (left, right)]
        if None in values:
            return False
        a, b = (value for value in values if value is not None)
        if (abs(sympy.im(a)) > EXACT) != (abs(sympy.im(b)) > EXACT):
            return False
        if abs(sympy.im(a)) <= EXACT:
            real += 1
            if abs(a - b) > 1e-9 * max(abs(a), abs(b), 1):
                return False
    return real >= 3


def _number(value: sympy.Expr) -> Any:
    """The value to 30 digits, or None where there is none."""
    try:
        number = value.doit().evalf(DIGITS)
    except Exception:  # sympy raises what it likes
        return None
    return number if number.is_number and number.is_finite else None
