r"""Whether two answers are equal in value: first as text, then by math-verify under a time limit.

Only math-verify's LaTeX reader is used, a grammar. Its reader of bare expressions goes through sympy's
parse_expr, which evaluates text as Python; an answer such as 1/2 is read by the grammar just as well.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import math_verify

from paced_megatron.problems.answers import plain
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.time_limit import OutOfTime, time_limit

MAX_CHARACTERS = 2_000  # what is longer is no final answer, and reading it would cost seconds
BASED = re.compile(r"[0-9A-Z]*\d[0-9A-Z]*_\{?(\d+)\}?")  # a numeral with its base, 2516_8

# To math-verify a bare word is a product of letters: "seat" would equal "east". Three may be one (lwh).
WORD = re.compile(r"[A-Za-z]{4,}")

# We put one limit around both readings and the comparison, and switch math-verify's own off (whole seconds,
# one for each step, and on the same SIGALRM). It would warn about that.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def judge_math(answer: str, gold: str, timeout_s: float) -> Outcome:
    """CORRECT, INCORRECT, UNPARSABLE (not a formula) or TIMED_OUT (over timeout_s, all steps together).

    A gold answer that math-verify cannot read is compared as text only.
    """
    if answer.strip() == gold.strip():
        return Outcome.CORRECT
    if len(answer) > MAX_CHARACTERS:
        return Outcome.UNPARSABLE
    if plain(answer) == plain(gold) != "":
        return Outcome.CORRECT
    if WORD.fullmatch(plain(answer)) and WORD.fullmatch(plain(gold)):
        return Outcome.CORRECT if plain(answer).lower() == plain(gold).lower() else Outcome.INCORRECT
    if _base(answer) and _base(gold) and _base(answer) != _base(gold):
        return Outcome.INCORRECT
    try:
        with time_limit(timeout_s):
            return _compare(answer, gold)
    except OutOfTime:
        return Outcome.TIMED_OUT


def _compare(answer: str, gold: str) -> Outcome:
    gold_value = _parse(gold)
    if not gold_value:
        return Outcome.INCORRECT
    answer_value = _parse(answer)
    if not answer_value:
        return Outcome.UNPARSABLE
    # The order matters: math-verify follows the gold answer's form.
    equal = math_verify.verify(gold_value, answer_value, timeout_seconds=None)
    return Outcome.CORRECT if equal else Outcome.INCORRECT


def _parse(answer: str) -> list[Any]:
    """The answer as math-verify's list of values; empty when it cannot be read (its own errors included)."""
    return math_verify.parse(
        rf"\boxed{{{answer}}}",
        [math_verify.LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )


def _base(answer: str) -> str | None:
    """The 8 of 2516_8: math-verify drops the subscript, and would take 2516_9 for the same number."""
    match = BASED.fullmatch(plain(answer))
    return match.group(1) if match else None
