"""Attempts and the file that keeps them: one JSON object a line, appended unit by unit, never rewritten."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.engine import Key
from paced_megatron.runtime.files import append_lines

log = logging.getLogger(__name__)

# The share of an outcome above which it points to a mistake in the set-up.
_SUSPICIOUS = {Outcome.TRUNCATED.value: 0.05, Outcome.UNPARSABLE.value: 0.5, Outcome.TIMED_OUT.value: 0.01}
# Where that mistake may be.
REMEDIES = {
    Outcome.TRUNCATED.value: "raise rollout.max_new_tokens, or pass rates come out too low",
    Outcome.UNPARSABLE.value: (
        "no answer is found in them; see problems.verifier.answer_marker, or ask for a \\boxed{} answer in "
        "problems.prompts.template"
    ),
    Outcome.TIMED_OUT.value: "raise problems.verifier.timeout_s",
}

# The keys of a line, with the type that JSON has for each.
_JSON_TYPES: dict[str, type] = {
    "problem_id": str,
    "index": int,
    "token_ids": list,
    "text": str,
    "finish_reason": str,
    "outcome": str,
    "seed": int,
    "weight_version": str,
}


@dataclass(frozen=True)
class Attempt:
    """One scored response to a problem; its fields are the keys of a line in the attempts file."""

    problem_id: str
    index: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    outcome: Outcome
    seed: int
    weight_version: str

    @property
    def key(self) -> Key:
        """(problem_id, index), by which an attempt is known everywhere."""
        return (self.problem_id, self.index)

    def to_json(self) -> str:
        """The attempt as one line, without its line end. ASCII, so that a torn line can't tear a letter."""
        return json.dumps(asdict(self) | {"outcome": self.outcome.value})

    @classmethod
    def from_json(cls, line: str | bytes) -> Attempt:
        """Read `to_json`'s line back. Raises ValueError, naming the key, for anything else."""
        record = json.loads(line)
        if not isinstance(record, dict) or set(record) != set(_JSON_TYPES):
            raise ValueError(f"an attempt has exactly the keys {', '.join(_JSON_TYPES)}")
        for name, kind in _JSON_TYPES.items():
            if type(record[name]) is not kind:  # not isinstance: true is no int
                raise ValueError(f"{name} is not of type {kind.__name__}")
        if any(type(token) is not int for token in record["token_ids"]):
            raise ValueError("token_ids holds something that is no int")
        record["token_ids"] = tuple(record["token_ids"])
        record["outcome"] = Outcome(record["outcome"])
        return cls(**record)


def append_attempts(path: Path, attempts: Sequence[Attempt]) -> None:
    """Append a unit of attempts in one write and wait until it is on the disk.

    If the write fails half-way (a full disk, Ctrl-C) the file is cut back to what it was.

    Raises UserError where the disk is full, or may not be written.
    """
    if attempts:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, [attempt.to_json() for attempt in attempts])


def read_attempts(path: Path) -> list[Attempt]:
    """The attempts of a file that is taken to be whole, in the file's order.

    Raises UserError, with file:line, for a missing file, a broken line or an attempt that is there twice.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run `paced rollout` first")
    content = path.read_bytes()
    whole = _whole_length(content)
    if whole < len(content):
        number = content.count(b"\n", 0, whole) + 1
        raise UserError(f"{path}:{number}: a torn last line: start the run again, which mends the file")
    return _parse(path, content)


def recover_attempts(path: Path) -> list[Attempt]:
    """Open a file to go on with it: cut off a line torn by a kill, and return the attempts before it.

    Only the very last line can be torn: it lacks its line end, or is no JSON. Anything else that is broken
    was not broken by us and raises UserError as in `read_attempts`. A file that isn't there is an empty one.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = _whole_length(content)
    if whole < len(content):
        log.warning("%s: cut off a torn last line of %d bytes", path, len(content) - whole)
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return _parse(path, content[:whole])


def outcome_counts(attempts: Iterable[Attempt]) -> dict[str, int]:
    """How many attempts ended in each way; every kind is there, also those that did not occur."""
    counts = {outcome.value: 0 for outcome in Outcome}
    for attempt in attempts:
        counts[attempt.outcome.value] += 1
    return counts


def outcome_warnings(attempts: Collection[Attempt], remedies: Mapping[str, str] = REMEDIES) -> list[str]:
    """What is odd about the outcomes, and what to look at; nothing where they are as expected.

    Args:
        remedies: outcome -> what to look at, for who has other switches than a run's configuration.
    """
    counts, total = outcome_counts(attempts), len(attempts)
    return [
        f"{counts[kind] / total:.0%} of the attempts are {kind.replace('_', ' ')}: {remedies[kind]}"
        for kind, share in _SUSPICIOUS.items()
        if total and counts[kind] > share * total
    ]


def _whole_length(content: bytes) -> int:
    """The length of `content` without a torn last line."""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        return end
    start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        json.loads(content[start:end] or b"0")
    except ValueError:
        return start
    return end


def _parse(path: Path, content: bytes) -> list[Attempt]:
    attempts: list[Attempt] = []
    lines: dict[Key, int] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line and number == content.count(b"\n") + 1:
            break  # after the last line end
        try:
            attempt = Attempt.from_json(line)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: not an attempt ({error}): mend it, or move the file away to roll out anew"
            ) from error
        if attempt.key in lines:
            raise UserError(
                f"{path}:{number}: attempt {attempt.index} of problem {attempt.problem_id} again, as in line "
                f"{lines[attempt.key]}: delete one of the two"
            )
        lines[attempt.key] = number
        attempts.append(attempt)
    return attempts
