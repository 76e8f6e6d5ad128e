"""Where problems are kept, as rows: JSONL, Parquet, a Hugging Face dataset on disk or on the hub.

A kind of file is a row of `BY_ENDING`; what the columns mean is `formats.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError

HUB = "hf://"
NEEDS = "problem, answer and, in most files, id"


class NumberAsSpelt(str):
    """A number with a point or an exponent, spelt as in the file: an answer 0.50 stays "0.50"."""


@dataclass(frozen=True)
class Row:
    """One problem as it is kept.

    Attributes:
        source: the file or dataset.
        where: the same with the place, for messages.
        place: "line 3", or "row 3" where there are no lines; both count from 1.
        values: column -> value.
    """

    source: str
    where: str
    place: str
    values: dict[str, Any]


def read_rows(source: str) -> Iterator[Row]:
    """The rows of a file, or of a dataset `hf://NAME?split=train&config=main&revision=main`.

    Args:
        source: NAME is a dataset on the Hugging Face hub, or a folder given by its absolute path. A folder
            without hf:// is one that `datasets` has saved. A file whose ending is not in BY_ENDING is JSONL.

    Raises:
        UserError: there is none, it can't be read, or a package is missing for it.
    """
    if source.startswith(HUB):
        yield from _hub_rows(source)
    elif _is_saved_dataset(Path(source)):
        yield from _dataset_rows(source, _saved(source, Path(source), None))
    else:
        yield from BY_ENDING.get(Path(source).suffix.lower(), _jsonl_rows)(Path(source))


# ------------------------------------------------------------------------------------------------- JSONL


def _jsonl_rows(path: Path) -> Iterator[Row]:
    """UTF-8, one object a line, blank lines allowed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    # Split at b"\n" alone: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(content.split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # some editors begin with a mark
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
        if text.strip():
            yield Row(str(path), where, f"line {number}", _object(where, text))


def _unreadable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or type(error).__name__
    return UserError(f"{path}: cannot be read ({reason}); check problems.train and .test")


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text, parse_float=NumberAsSpelt, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # NaN; a number or a nesting beyond Python's limits
        raise UserError(f"{where}: broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type_name(row)} where an object with id, problem, answer is needed")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


# ----------------------------------------------------------------------------------- Parquet and datasets


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise _missing(str(path), "pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            # A table is never whole in memory as Python objects.
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=1024))
            yield from _numbered(str(path), (row for batch in batches for row in batch))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({_one_line(error)})") from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _numbered(source: str, rows: Any) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        values = {name: _spelt(value) for name, value in row.items()}
        yield Row(source, f"{source}, row {number}", f"row {number}", values)


def _spelt(value: Any) -> Any:
    """As JSON's values are: a number with a point by how Python spells it."""
    if isinstance(value, float) and math.isnan(value):
        return None  # how a table says that nothing is there
    if isinstance(value, float):
        return NumberAsSpelt(repr(value))
    if isinstance(value, dict):
        return {name: _spelt(inner) for name, inner in value.items()}
    return [_spelt(inner) for inner in value] if isinstance(value, list) else value


def _datasets(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise _missing(source, "datasets") from None
    return datasets


def _missing(source: str, package: str) -> UserError:
    return UserError(
        f"{source}: the package {package} reads it and is not installed; pip install 'paced-megatron[data]'"
    )


def _is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` has saved a dataset there (save_to_disk)."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _hub_rows(source: str) -> Iterator[Row]:
    name, _, query = source.removeprefix(HUB).partition("?")
    options = dict(part.partition("=")[::2] for part in query.split("&") if part)
    unknown = options.keys() - {"split", "config", "revision"}
    if unknown or not name or not all(options.values()):
        raise UserError(
            f"{source}: a dataset is hf://NAME?split=train&config=NAME&revision=NAME, no other keys"
        )
    split = options.get("split", "train")
    if _is_saved_dataset(Path(name)):
        yield from _dataset_rows(source, _saved(source, Path(name), split))
        return
    datasets = _datasets(source)
    try:
        loaded = datasets.load_dataset(
            name, options.get("config"), split=split, revision=options.get("revision")
        )
    except Exception as error:  # it raises whatever its readers and the network do
        raise UserError(f"{source}: cannot be loaded ({type(error).__name__}: {_one_line(error)})") from None
    yield from _dataset_rows(source, loaded)


def _saved(source: str, folder: Path, split: str | None) -> Any:
    datasets = _datasets(source)
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise UserError(f"{source}: cannot be loaded ({type(error).__name__}: {_one_line(error)})") from None
    if not isinstance(loaded, dict):
        return loaded
    if split in loaded:
        return loaded[split]
    raise UserError(
        f"{source}: a dataset with the splits {', '.join(loaded)}; name one: hf://{folder}?split=NAME"
    )


def _dataset_rows(source: str, dataset: Any) -> Iterator[Row]:
    return _numbered(source, iter(dataset))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


BY_ENDING: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _jsonl_rows,
    ".parquet": _parquet_rows,
}

TYPE_NAMES: dict[type, str] = {
    str: "a text",
    int: "an integer",
    NumberAsSpelt: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def type_name(value: Any) -> str:
    """What a value is, in words."""
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")
