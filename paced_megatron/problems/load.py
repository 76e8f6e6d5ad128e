"""Problems from a JSONL file: every line is checked, and what is wrong is named by file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.problems.problem import Problem


class _Decimal(str):
    """A JSON number with a point or an exponent, spelt as in the file: an answer 0.50 stays "0.50"."""


FIELDS = tuple(field.name for field in dataclass_fields(Problem))
REQUIRED = ("id", "problem", "answer")
# What a field may hold in the file, as exact types (True is an int in Python); all of it becomes str.
FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (str, int),
    "problem": (str,),
    "answer": (str, int, _Decimal),
    "solution": (str,),
    "level": (str, int),
}
TYPE_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "an integer",
    _Decimal: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def load_problems(path: Path, fields: Mapping[str, str] = NO_FIELDS) -> list[Problem]:
    """The problems of a JSONL file (UTF-8, one object a line, blank lines allowed), in the file's order.

    fields: our field -> the file's column, for those that differ, as {"id": "unique_id"}. Columns that no
    field names are ignored. ids, levels and answers may be numbers; they become str.

    Raises UserError, naming file and line: file missing or not UTF-8, broken JSON, a field that is missing,
    empty or of another type, an id that appears twice, no problem at all, an unknown key in `fields`.
    """
    columns = _columns(fields)
    problems: list[Problem] = []
    line_of_id: dict[str, int] = {}
    columns_seen: set[str] = set()
    for number, row in _rows(path):
        problem = _problem(f"{path}:{number}", row, columns)
        if problem.id in line_of_id:
            raise UserError(
                f"{path}:{number}: id {problem.id!r} is already that of line {line_of_id[problem.id]}; "
                "give each problem its own id, or name another column as id in problems.fields"
            )
        line_of_id[problem.id] = number
        columns_seen.update(row)
        problems.append(problem)
    if not problems:
        raise UserError(
            f"{path}: no problem in it; it needs one JSON object a line, with {_listed(REQUIRED)}"
        )
    for name in fields:
        if columns[name] not in columns_seen:
            raise UserError(
                f"problems.fields: {name} is to be column {columns[name]!r}; no line of {path} has it"
            )
    return problems


def _columns(fields: Mapping[str, str]) -> dict[str, str]:
    """Every field of ours -> the column it is read from."""
    for name, column in fields.items():
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "it maps our name to the file's column"
            raise UserError(f"problems.fields: unknown field {name!r}; {meant} (fields: {_listed(FIELDS)})")
        if not isinstance(column, str):
            raise UserError(f"problems.fields: {name} must be the name of a column, not {column!r}")
    return {name: fields.get(name, name) for name in FIELDS}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each line that is not blank."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); check problems.train and .test") from error
    # Split at b"\n" alone: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # some editors begin with a mark
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        if text.strip():
            yield number, _object(f"{path}:{number}", text)


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text, parse_float=_Decimal, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # NaN; a number or a nesting beyond Python's limits
        raise UserError(f"{where}: broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {_type_name(row)} where an object with {_listed(REQUIRED)} is needed")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _problem(where: str, row: dict[str, Any], columns: Mapping[str, str]) -> Problem:
    values = {name: _value(where, row, name, columns[name]) for name in FIELDS}
    return Problem(**values)  # type: ignore[arg-type]  # _value returns None for optional fields only


def _value(where: str, row: dict[str, Any], name: str, column: str) -> str | None:
    """The field as str; None for an optional one that is absent or null."""
    value = row.get(column)
    called = name if column == name else f"{name} (column {column!r})"
    if value is None:
        if name not in REQUIRED:
            return None
        state = "is null" if column in row else "is missing"
        raise UserError(
            f"{where}: {called} {state}; the line has the columns {_listed(row) or 'none'}; "
            f"if another one holds it, say so in problems.fields: {{{name}: COLUMN}}"
        )
    if type(value) not in FIELD_TYPES[name]:
        allowed = " or ".join(TYPE_NAMES[kind] for kind in FIELD_TYPES[name])
        raise UserError(f"{where}: {called} is {_type_name(value)}; it must be {allowed}")
    text = str(value)
    if name in REQUIRED and not text.strip():
        raise UserError(f"{where}: {called} is empty; fill it in or leave the line out")
    if not text.isascii():
        _check_characters(where, called, text)
    return text


def _check_characters(where: str, called: str, text: str) -> None:
    """JSON can spell half a surrogate pair (\\ud83d), which no tokenizer and no output file takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        at = error.start + 1
        raise UserError(
            f"{where}: {called} has half a surrogate pair at character {at}; remove it"
        ) from error


def _type_name(value: Any) -> str:
    return TYPE_NAMES[type(value)]


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
