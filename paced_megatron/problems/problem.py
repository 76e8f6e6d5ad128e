"""The Problem that everything else is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question with the answer that is right.

    id: unique in its file; names the problem in attempts.jsonl, pass_rates.jsonl and in every message.
    problem: the question's text, often with LaTeX in it.
    answer: the final answer alone ("1/2"), as a verifier compares it. Loaders refuse an empty one.
    solution: a worked solution, if the file has one.
    level: the file's own grade of difficulty, if it has one.
    """

    id: str
    problem: str
    answer: str
    solution: str | None = None
    level: str | None = None
