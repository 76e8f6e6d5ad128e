r"""Finding the final answer in an attempt's text, and the answer's plain spelling. The last answer wins.

Plain scans of the text, linear in its length: a model may write megabytes of braces.
"""

from __future__ import annotations

import re
from collections import deque

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# After \boxed without braces: what stands before a space or the end of the formula ($, \) or \]).
BARE = re.compile(r"(?:(?!\\[)\]])[^\s$])*")
WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def final_answer(text: str, answer_marker: str | None) -> str | None:
    r"""What follows the last `answer_marker`, or without one the content of the last \boxed{}; else None.

    The result is stripped and never empty. With a marker a box counts for nothing, and the other way round.
    """
    if answer_marker is None:
        return last_boxed(text)
    start = text.rfind(answer_marker)
    return (text[start + len(answer_marker) :].strip() or None) if start >= 0 else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} or \fbox{...}, with its braces balanced; None if there is none.

    \boxed without braces takes the next word. A last box that is empty or never closed gives None, even when
    an earlier one is complete: it was what the attempt ended with.
    """
    boxes = deque(BOX.finditer(text), maxlen=1)
    if not boxes:
        return None
    box = boxes[0]
    if not text.startswith("{", box.end()):
        word = BARE.match(text, box.end())
        return (word.group().rstrip(".,;:") or None) if word else None
    end = _closing_brace(text, box.end())
    return (text[box.end() + 1 : end].strip() or None) if end is not None else None


def _closing_brace(text: str, start: int) -> int | None:
    r"""Where the brace that opens at `start` is closed. An escaped \{ or \} is a sign, not a bracket."""
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


# Each rule changes how an answer looks, never what it says.
PLAIN = (
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"\\[!,]"), ""),
    (re.compile(r"\\[;: ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"\\displaystyle(?![A-Za-z])"), ""),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|mbox|textbf|textit|mathrm)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})"), ""),
    (re.compile(r"\\\$"), ""),
    (re.compile(r"(?<!\d)\s+|\s+(?!\d)"), ""),  # a space between two digits may part two numbers
)


def plain(answer: str) -> str:
    """The answer in its plainest spelling, for comparison as text: same spelling, same answer."""
    answer = unwrapped(answer)
    for pattern, replacement in PLAIN:
        answer = pattern.sub(replacement, answer)
    return answer


def unwrapped(answer: str) -> str:
    """The answer without a closing full stop and without the signs that begin and end a formula."""
    answer = answer.strip().removesuffix(".").rstrip()
    for opening, closing in WRAPPERS:
        inner = answer[len(opening) : len(answer) - len(closing)]
        if answer == opening + inner + closing and closing not in inner:
            return inner.strip()
    return answer
