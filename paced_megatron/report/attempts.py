"""Files of attempts as the report reads them: counted line by line, and a few attempts kept to be shown.

Such a file may hold gigabytes, and its texts are a model's: nothing of it is kept but counts and a handful of
texts, cut to a length, and nothing in it is run or compared in value.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.problems.answers import final_answer
from paced_megatron.problems.outcome import Outcome

PER_KIND = 2  # attempts shown of each kind of outcome, of each piece of work
_HEAD, _TAIL, _ANSWER = 500, 700, 200  # characters of a text, its beginning and end, and of an answer
# What a page or a JSON file can't hold, or a terminal would obey: control characters, halves of a pair.
_NOT_TEXT = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@dataclass
class AttemptCounts:
    """What the report keeps of one or several files of attempts.

    Attributes:
        outcomes: kind of outcome -> attempts.
        correct: problem -> (correct attempts, attempts).
        chosen: kind of outcome -> lines as in the file, each under the number by which it was drawn.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    correct: dict[str, tuple[int, int]] = field(default_factory=dict)
    chosen: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Count a file's attempts too. Raises UserError, naming file:line, for a line that is none."""
        for record in _records(path):
            problem, kind = record["problem_id"], record["outcome"]
            self.outcomes[kind] += 1
            correct, attempts = self.correct.get(problem, (0, 0))
            self.correct[problem] = (correct + (kind == Outcome.CORRECT.value), attempts + 1)
            self._draw(kind, record)

    def _draw(self, kind: str, record: dict[str, Any]) -> None:
        """Keep the attempts with the smallest hashes: a draw that the order of lines and files can't change,
        and that is the same each time."""
        text, problem = record["text"], record["problem_id"]
        key = json.dumps([problem, record["index"], record["weight_version"], text])
        drawn = (hashlib.sha256(key.encode()).hexdigest(), record)
        found = self.chosen.setdefault(kind, [])
        if len(found) < PER_KIND or drawn[0] < found[-1][0]:
            self.chosen[kind] = heapq.nsmallest(PER_KIND, [*found, drawn], key=lambda each: each[0])

    def examples(self, answer_marker: str | None) -> Iterator[dict[str, Any]]:
        """The attempts to be shown, with the answer that the verifier read in each.

        Args:
            answer_marker: problems.verifier.answer_marker of the run.
        """
        for outcome in Outcome:
            for _, record in self.chosen.get(outcome.value, ()):
                text = record["text"]
                answer = final_answer(text, answer_marker) if record["finish_reason"] == "stop" else None
                yield {
                    "outcome": outcome.value,
                    "problem_id": record["problem_id"],
                    "index": record["index"],
                    "tokens": len(record["token_ids"]),
                    "head": shown(text[:_HEAD] if len(text) > _HEAD + _TAIL else text),
                    "left_out": max(len(text) - _HEAD - _TAIL, 0),
                    "tail": shown(text[-_TAIL:] if len(text) > _HEAD + _TAIL else ""),
                    "answer": end_of(answer, _ANSWER),
                }


def attempt_counts(*paths: Path) -> AttemptCounts:
    """The files together. Raises UserError."""
    counts = AttemptCounts()
    for path in paths:
        counts.add(path)
    return counts


def end_of(text: str | None, most: int) -> str | None:
    """The text as it can be shown; where it has more characters than `most` its end, after a mark."""
    if text is None:
        return None
    return shown(text if len(text) <= most else f"… {text[-most:]}")


def shown(text: str) -> str:
    """The text with a replacement character for all that is none: it may come from a model."""
    return _NOT_TEXT.sub("\ufffd", text.replace("\r\n", "\n"))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The file's lines; a torn last line is left out, as `read_jsonl` does."""
    kinds = {outcome.value for outcome in Outcome}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                known = record["outcome"] in kinds and isinstance(record["text"], str)
            except (ValueError, KeyError, TypeError):
                known = False
            if not known:
                raise UserError(f"{path}:{number}: not an attempt; mend or remove the line")
            yield record
