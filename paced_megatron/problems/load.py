"""From rows to problems: every row is checked, and what is wrong is named by file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.problems.answers import last_boxed
from paced_megatron.problems.formats import FORMATS, Format
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.rows import TYPE_NAMES, NumberAsSpelt, Row, read_rows, type_name

FIELDS = tuple(field.name for field in dataclass_fields(Problem))
REQUIRED = ("id", "problem", "answer")
# What a field may hold in the file, as exact types (True is an int in Python); all of it becomes str.
FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (str, int),
    "problem": (str,),
    "answer": (str, int, NumberAsSpelt),
    "solution": (str,),
    "level": (str, int),
}
NO_FIELDS: Mapping[str, str] = MappingProxyType({})
_ABSENT = object()


def load_problems(
    source: object, fields: Mapping[str, str] = NO_FIELDS, format: str = "plain"
) -> list[Problem]:
    """The problems of a file or dataset (`rows.read_rows`), in its order.

    Args:
        source: a path, or `hf://...`.
        fields: our field -> the file's column, for those that differ, as {"id": "unique_id"}; "a.b.0" is
            entry 0 of `b` in the object in column `a`, unless a column has that very name. Columns that no
            field names are ignored. ids, levels and answers may be numbers; they become str.
        format: a row of FORMATS, which says what `fields` says and more; `fields` is for "plain" and
            "numbered".

    Raises:
        UserError: naming file and line: file missing or not UTF-8, broken JSON, a field that is missing,
            empty or of another type, an id that appears twice, no problem at all, an unknown key in `fields`.
    """
    layout = FORMATS[format]
    if format in ("plain", "numbered"):
        _check_fields(fields)
        layout = replace(layout, columns=fields)
    rows = (
        (row, _problem(row, layout, number)) for number, row in enumerate(read_rows(str(source)), start=1)
    )
    problems = _each_text_once(rows) if layout.repeated else _each_id_once(rows, layout.columns)
    if not problems:
        raise UserError(
            f"{source}: no problem in it; it needs one JSON object a line, with {_listed(REQUIRED)}"
        )
    return problems


def _each_id_once(rows: Iterable[tuple[Row, Problem]], columns: Mapping[str, str | None]) -> list[Problem]:
    """All of them; every id is a problem's own, and every column that is named is in some row."""
    place_of_id: dict[str, str] = {}
    never_seen = {name: column for name, column in columns.items() if column is not None}
    problems: list[Problem] = []
    for row, problem in rows:
        if problem.id in place_of_id:
            raise UserError(
                f"{row.where}: id {problem.id!r} is already that of {place_of_id[problem.id]}; "
                "give each problem its own id, or name another column as id in problems.fields"
            )
        place_of_id[problem.id] = row.place
        problems.append(problem)
        for name in [name for name, column in never_seen.items() if _find(row.values, column) is not _ABSENT]:
            del never_seen[name]
    for name, column in never_seen.items() if problems else ():
        raise UserError(
            f"problems.fields: {name} is to be column {column!r}; no {row.place.split()[0]} of "
            f"{row.source} has it"
        )
    return problems


def _each_text_once(rows: Iterable[tuple[Row, Problem]]) -> list[Problem]:
    """Of the same text the first; none where the answers differ, since one of them would score wrongly."""
    first: dict[str, Problem] = {}
    disputed: set[str] = set()
    text_of_id: dict[str, str] = {}
    for row, problem in rows:
        known = first.setdefault(problem.problem, problem)
        if known.answer != problem.answer:
            disputed.add(problem.problem)
        if known is problem and text_of_id.setdefault(problem.id, problem.problem) != problem.problem:
            raise UserError(f"{row.where}: id {problem.id!r} is already that of another problem")
    return [problem for text, problem in first.items() if text not in disputed]


def _check_fields(fields: Mapping[str, str]) -> None:
    for name, column in fields.items():
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "it maps our name to the file's column"
            raise UserError(f"problems.fields: unknown field {name!r}; {meant} (fields: {_listed(FIELDS)})")
        if not isinstance(column, str):
            raise UserError(f"problems.fields: {name} must be the name of a column, not {column!r}")


def _problem(row: Row, layout: Format, number: int) -> Problem:
    columns = {name: layout.columns.get(name, name) for name in FIELDS}
    given = {
        name: _ABSENT if column is None else _find(row.values, column) for name, column in columns.items()
    }
    if layout.number_as_id and given["id"] is _ABSENT:
        given["id"] = number
    if layout.answer_in_solution and given["answer"] is _ABSENT and isinstance(given["solution"], str):
        given["answer"] = last_boxed(given["solution"])
        if given["answer"] is None:
            raise UserError(f"{row.where}: the solution has no answer in \\boxed{{}}; leave the row out")
    values = {name: _value(row, name, columns[name] or name, given[name]) for name in FIELDS}
    if layout.instruction is not None and values["problem"] is not None:
        values["problem"] = _without(layout.instruction, row.where, values["problem"])
    if values["level"] is not None:
        values["level"] = values["level"].removeprefix(layout.level_prefix)
    return Problem(**values)  # type: ignore[arg-type]  # _value returns None for optional fields only


def _find(values: Mapping[str, Any], column: str) -> Any:
    """What stands in a column, or in an object or list inside one; _ABSENT where nothing does."""
    if column in values:
        return values[column]
    found: Any = values
    for part in column.split("."):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _ABSENT
    return found


def _without(instruction: tuple[Any, Any], where: str, text: str) -> str:
    """The text without the set's own instruction. Another one than is known would be asked beside ours."""
    before, after = instruction
    bare, cuts = before.subn("", text)
    bare, more = after.subn("", bare)
    if not (cuts and more and bare):
        raise UserError(f"{where}: its instruction is not the one that this format knows; use format: plain")
    return bare


def _value(row: Row, name: str, column: str, value: Any) -> str | None:
    """The field as str; None for an optional one that is absent or null."""
    where, kind = row.where, row.place.split()[0]
    called = name if column == name else f"{name} (column {column!r})"
    if value is None or value is _ABSENT:
        if name not in REQUIRED:
            return None
        state = "is null" if value is None else "is missing"
        raise UserError(
            f"{where}: {called} {state}; the {kind} has the columns {_listed(row.values) or 'none'}; "
            f"if another one holds it, say so in problems.fields: {{{name}: COLUMN}}"
        )
    if type(value) not in FIELD_TYPES[name]:
        allowed = " or ".join(TYPE_NAMES[kind] for kind in FIELD_TYPES[name])
        raise UserError(f"{where}: {called} is {type_name(value)}; it must be {allowed}")
    text = str(value)
    if name in REQUIRED and not text.strip():
        raise UserError(f"{where}: {called} is empty; fill it in or leave the {kind} out")
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


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
