"""Where the tree of values meets the dataclasses: unknown and missing keys, types, bounds, joint rules.

`build` is the way in. Whatever is wrong raises UserError, which opens with the file and line, or the
override, that said it. A type that a dataclass may use is a row in CONVERTERS; a rule that joins several keys
is a row of `rules.RULES`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from paced_megatron.config import HUB_ID, Config, Key, Source
from paced_megatron.config.rules import RULES
from paced_megatron.config.tree import Node
from paced_megatron.errors import UserError

T = TypeVar("T")

MODELS = ("student.path", "teacher.path")  # a folder, or a model's name on the Hugging Face hub
FROM_CURRENT_DIRECTORY = ("run_dir",)  # whatever file names it: results do not land beside a recipe


def build(tree: Node) -> Config:
    """Make the configuration from a tree, every key of it checked."""
    config = _section(tree, "", Config)
    for key, _, rule in RULES:
        complaint = rule(config)
        if complaint is not None:
            raise UserError(f"{tree.find(key).where}: {complaint}")
    return config


# ---------------------------------------------------------------------------------------------- sections


def build_section(tree: Node, cls: type[T]) -> T:
    """Make any dataclass whose fields are described as those of this folder are, every key of it checked."""
    return _section(tree, "", cls)


def _section(node: Node, name: str, cls: type[T]) -> T:
    """Make one dataclass from a node; `name` is the section's dotted key, "" for the whole configuration."""
    entries = {} if node.value is None else node.value  # `training:` with nothing under it means its defaults
    if not isinstance(entries, dict):
        raise UserError(
            f"{node.where}: {name or 'the file'} must be a section of keys, not {node.describe()}"
        )
    hints = get_type_hints(cls, include_extras=True)
    for key, child in entries.items():
        if key not in hints:
            remedy = _other_file(cls, key, entries) or _suggestion(name, key, hints)
            raise UserError(f"{child.where}: unknown key {_join(name, key)}; {remedy}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in entries and is_required(field):
            about = key_of(hints[field.name])
            meaning = f": {about.doc}" if about else ", a section"
            raise UserError(f"{node.where}: missing key {_join(name, field.name)}{meaning}")
    return cls(**{key: _value(child, _join(name, key), hints[key]) for key, child in entries.items()})


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def key_of(hint: Any) -> Key | None:
    """What its dataclass says about a key; None for a section."""
    return hint.__metadata__[0] if get_origin(hint) is Annotated else None


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _other_file(cls: type, key: str, entries: Collection[str]) -> str | None:
    """Where a run's file was taken for an experiment's, or the other way round; `entries`: all its keys. A
    `seed` alone may be a misspelt `seeds`."""
    if cls is Config and key in ("base", "arms"):
        return "this is an experiment's file: `paced compare` takes it"
    ours, of_runs = get_type_hints(cls), get_type_hints(Config)
    if not {"base", "arms"} <= ours.keys() or key not in of_runs:
        return None
    if any(one in of_runs and not difflib.get_close_matches(one, ours) for one in entries if one not in ours):
        return "this is a run's file: `paced run` takes it, or an experiment's `base:`"
    return None


def _suggestion(name: str, key: str, siblings: Collection[str]) -> str:
    """The nearest right key: in the same section first, then anywhere (`lr` at the top is `training.lr`)."""
    near = difflib.get_close_matches(key, list(siblings), n=1)
    if near:
        return f"did you mean {_join(name, near[0])}?"
    elsewhere = {dotted.rsplit(".", 1)[-1]: dotted for dotted in reversed(known_keys(Config))}
    near = difflib.get_close_matches(key, list(elsewhere), n=1, cutoff=0.8)
    if near:
        return f"did you mean {elsewhere[near[0]]}?"
    return f"the keys of {name or 'a configuration'} are {', '.join(siblings)}"


def known_keys(cls: type, name: str = "") -> list[str]:
    """Every dotted key there is, sections included; for a list of sections, those of its entry 0."""
    keys = []
    for key, hint in get_type_hints(cls).items():
        keys.append(_join(name, key))
        if dataclasses.is_dataclass(hint):
            keys += known_keys(hint, _join(name, key))  # type: ignore[arg-type]
        elif get_origin(hint) is list:
            keys += known_keys(get_args(hint)[0], f"{_join(name, key)}.0")
    return keys


# ------------------------------------------------------------------------------------------------ values


def _value(node: Node, name: str, hint: Any) -> Any:
    """Check one node against a type hint; return the value."""
    about = key_of(hint) or Key("")
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):  # only `X | None` is used
        if node.value is None:
            return None
        (hint,) = (option for option in get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return _section(node, name, hint)  # type: ignore[arg-type]
    value = CONVERTERS[get_origin(hint) or hint](node, name, hint)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(node, name, value, about)
    if isinstance(value, dict) and about.keys is not None:
        for key in value:
            if key not in about.keys:
                child = node.value[key]
                raise UserError(
                    f"{child.where}: unknown key {name}.{key}; {_suggestion(name, key, about.keys)}"
                )
    return value


def _check_bounds(node: Node, name: str, value: float, about: Key) -> None:
    checks = [
        (about.at_least, lambda bound: value >= bound, "at least"),
        (about.above, lambda bound: value > bound, "above"),
        (about.at_most, lambda bound: value <= bound, "at most"),
        (about.below, lambda bound: value < bound, "below"),
    ]
    if value == about.off or all(bound is None or holds(bound) for bound, holds, _ in checks):
        return
    limits = " and ".join(f"{words} {show_number(bound)}" for bound, _, words in checks if bound is not None)
    off = f", or {about.off:g} for off" if about.off is not None else ""
    raise UserError(f"{node.where}: {name} must be {limits}{off}, not {node.describe()}")


def show_number(value: float) -> str:
    """A bound in words: 9223372036854775807, where `:g` would say 9.22337e+18."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _wrong(node: Node, name: str, wanted: str, remedy: str = "") -> UserError:
    return UserError(f"{node.where}: {name} must be {wanted}, not {node.describe()}{remedy}")


def _bool(node: Node, name: str, hint: Any) -> bool:
    if isinstance(node.value, bool):
        return node.value
    raise _wrong(node, name, "true or false")


def _int(node: Node, name: str, hint: Any) -> int:
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return node.value
    raise _wrong(node, name, "a whole number")


def _float(node: Node, name: str, hint: Any) -> float:
    value = node.value
    if isinstance(value, str) and not node.quoted:
        try:
            value = float(value)  # YAML 1.1 reads 1e-6, which has no dot, as text
        except ValueError:
            raise _wrong(node, name, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(node, name, "a number", "; remove the quotes" if node.quoted else "")
    if not math.isfinite(value):
        raise _wrong(node, name, "a finite number")
    return float(value)


def _str(node: Node, name: str, hint: Any) -> str:
    if node.literal is not None and node.value is not None and not node.quoted:
        # An override needs no quotes: `run_dir=2026` is a folder, `answer_marker=####` a text.
        return node.literal
    if isinstance(node.value, str):
        return node.value
    raise _wrong(
        node, name, "text", "; put it in quotes if that text is meant" if node.value is not None else ""
    )


def _path(node: Node, name: str, hint: Any) -> Path:
    text = _str(node, name, hint)
    if not text or "\0" in text:
        raise _wrong(node, name, "a path")
    base = Path.cwd() if name in FROM_CURRENT_DIRECTORY else node.folder
    path = Path(os.path.abspath(base / Path(text).expanduser()))
    on_hub = name in MODELS and not path.exists() and HUB_ID.fullmatch(text)
    return Path(text) if on_hub else path  # a name stays one: models/hub.py looks for it


def _source(node: Node, name: str, hint: Any) -> Source:
    text = _str(node, name, hint)
    return Source(text if text.startswith("hf://") else _path(node, name, hint))


def _choice(node: Node, name: str, hint: Any) -> Any:
    choices = get_args(hint)
    if isinstance(node.value, str) and node.value in choices:
        return node.value
    near = difflib.get_close_matches(str(node.value), choices, n=1) if len(choices) > 1 else []
    raise _wrong(node, name, " or ".join(choices), f"; did you mean {near[0]}?" if near else "")


def _list(node: Node, name: str, hint: Any) -> list[Any]:
    if not isinstance(node.value, list):
        raise _wrong(node, name, "a list")
    return [_value(child, f"{name}.{index}", get_args(hint)[0]) for index, child in enumerate(node.value)]


def _dict(node: Node, name: str, hint: Any) -> dict[str, Any]:
    entries = {} if node.value is None else node.value
    if not isinstance(entries, dict):
        raise _wrong(node, name, "a section of keys")
    return {key: _value(child, _join(name, key), get_args(hint)[1]) for key, child in entries.items()}


def _anything(node: Node, name: str, hint: Any) -> Any:
    return node.plain()


CONVERTERS: dict[Any, Callable[[Node, str, Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
    Source: _source,
    Literal: _choice,
    list: _list,
    dict: _dict,
    Any: _anything,
}
