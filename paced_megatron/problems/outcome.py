"""How an attempt ends."""

from __future__ import annotations

from enum import Enum


class Outcome(str, Enum):
    """Every attempt ends as exactly one of these; the value is what attempts.jsonl holds."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSABLE = "unparsable"  # it ended by itself, but gives no answer that could be read
    TRUNCATED = "truncated"  # it reached max_new_tokens
    TIMED_OUT = "timed_out"  # the verifier, not the attempt, ran out of time
