"""Held-out problems by what the initial student could do: strata.jsonl.

A problem's stratum comes from attempts that serve nothing else. Were it taken from the attempts that give
the accuracy, problems that were lucky would be called mastered, and every student would look worse on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.pacing import PassRate
from paced_megatron.runtime.files import write_atomically

NEVER, FRONTIER, ALWAYS = STRATA = ("never", "frontier", "always")


def stratum(rate: PassRate) -> str:
    """ "never" solved, "always" solved, or on the "frontier" between."""
    if rate.correct == 0:
        return NEVER
    return ALWAYS if rate.correct == rate.attempts else FRONTIER


def write_strata(path: Path, rates: Sequence[PassRate]) -> None:
    """Write {problem_id, correct, attempts, pass_rate, stratum} a line; the file appears whole."""
    lines = [
        json.dumps(
            {
                "problem_id": rate.problem_id,
                "correct": rate.correct,
                "attempts": rate.attempts,
                "pass_rate": rate.value,
                "stratum": stratum(rate),
            }
        )
        for rate in rates
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def read_strata(path: Path) -> dict[str, str]:
    """Problem id -> stratum; empty where there is no file. Raises UserError for a broken line."""
    if not path.exists():
        return {}
    strata: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["stratum"] not in STRATA:
                raise ValueError(f"stratum {record['stratum']!r}")
            strata[record["problem_id"]] = record["stratum"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a problem's stratum ({error}); delete the file, the next start of the "
                "run makes it anew"
            ) from None
    return strata
