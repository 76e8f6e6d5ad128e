"""pass_rates.jsonl: a line per problem, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.pacing.pass_rate import PassRate
from paced_megatron.pacing.weights import PacedWeights
from paced_megatron.runtime.files import write_atomically

_REMEDY = "delete the file, `paced weigh` writes it anew"


def write_pass_rates(path: Path, pass_rates: Sequence[PassRate], paced: PacedWeights) -> None:
    """Write {problem_id, correct, attempts, pass_rate, on_frontier, kept, weight} a line; weight 0 where not
    kept.

    The file appears complete: whoever finds it may take the weighing as done.
    """
    weights = paced.weights
    _write(
        path,
        [
            _record(rate) | {"kept": rate.problem_id in weights, "weight": weights.get(rate.problem_id, 0.0)}
            for rate in pass_rates
        ],
    )


def write_rates_after(path: Path, pass_rates: Sequence[PassRate]) -> None:
    """Write {problem_id, correct, attempts, pass_rate, on_frontier} a line: rates that weigh nothing.

    `read_pass_rates` reads them too.
    """
    _write(path, [_record(rate) for rate in pass_rates])


def _record(rate: PassRate) -> dict[str, Any]:
    return {
        "problem_id": rate.problem_id,
        "correct": rate.correct,
        "attempts": rate.attempts,
        "pass_rate": rate.value,
        "on_frontier": rate.on_frontier,
    }


def _write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def read_pass_rates(path: Path) -> list[PassRate]:
    """The pass rates of the file, in its order. Raises UserError for a missing file or a broken line."""
    return [_pass_rate(record) for record in _read(path, _check_rate)]


def read_weights(path: Path) -> dict[str, float]:
    """The weights of the problems that are kept, in the file's order, to the last bit as they were written.

    Raises UserError for a missing file or a broken line.
    """
    return {record["problem_id"]: record["weight"] for record in _read(path, _check_weight) if record["kept"]}


def _read(path: Path, check: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing: run `paced weigh` first")
    records: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            check(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a pass rate ({error}): {_REMEDY}") from error
        if record["problem_id"] in seen:
            raise UserError(f"{path}:{number}: problem {record['problem_id']} again: {_REMEDY}")
        seen.add(record["problem_id"])
        records.append(record)
    return records


def _pass_rate(record: dict[str, Any]) -> PassRate:
    return PassRate(record["problem_id"], record["correct"], record["attempts"])


def _check_rate(record: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError unless the record's parts are there and agree."""
    rate = _pass_rate(record)
    if record["on_frontier"] is not rate.on_frontier or record["pass_rate"] != rate.value:
        raise ValueError("pass_rate or on_frontier does not fit correct and attempts")
    if "kept" in record or "weight" in record:
        _check_weight_value(record)


def _check_weight(record: dict[str, Any]) -> None:
    _check_rate(record)
    _check_weight_value(record)


def _check_weight_value(record: dict[str, Any]) -> None:
    if not isinstance(record["weight"], float) or not 0 <= record["weight"] < math.inf:
        raise ValueError("weight is not a number from 0 on")
    if type(record["kept"]) is not bool or (record["weight"] and not record["kept"]):
        raise ValueError("kept does not fit weight")
