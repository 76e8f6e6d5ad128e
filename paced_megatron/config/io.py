"""Reading and writing the configuration that this folder's dataclasses describe, and comparing two of them.

A YAML file and its overrides become one tree of located values (`tree.py`), which is checked against
the dataclasses (`check.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paced_megatron.config import Config, Source
from paced_megatron.config.check import build
from paced_megatron.config.tree import Node, apply_override, from_python, read_yaml
from paced_megatron.errors import UserError


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides such as `stages.0.train_iters=10`, check every key.

    Relative paths: in the file they start at the file's folder, so that a recipe runs from anywhere; in an
    override at the current directory, as a shell completes them; `run_dir` starts at the current directory in
    both, so that results do not land beside a recipe. All come back absolute, `~` is understood. Raises
    UserError.
    """
    tree = read_tree(path)
    for override in overrides:
        tree = apply_override(tree, override)
    return build(tree)


def read_tree(path: Path) -> Node:
    """A YAML file as a tree whose values know where they were said. Raises UserError where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the run's YAML file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give the run's YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a YAML file ({error})") from None
    return read_yaml(text, str(path), folder=path.absolute().parent)


def config_from_dict(
    data: Mapping[str, Any], where: str = "configuration", folder: Path | None = None
) -> Config:
    """Check a nested dict like a YAML file; relative paths start at `folder`, or the current directory."""
    return build(from_python(data, where, folder or Path.cwd()))


def recorded_config(path: Path) -> Config:
    """The configuration that a run has written into its folder. Raises UserError where it is not one."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        shown = " ".join(str(error).split())
        raise UserError(f"{path}: not a run's configuration ({shown})") from None
    return config_from_dict(data if isinstance(data, dict) else {}, where=str(path))


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists, numbers and text; `config_from_dict` gives it back."""
    return _plain(config)


def dump_config(config: Config) -> str:
    """The configuration as YAML with every key, defaults included, in the order of the dataclasses."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True, width=110)


def diff_configs(old: Config, new: Config, ignore: Collection[str] = ()) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both values; what one side lacks (a stage, say) is None there.

    `ignore` leaves out keys, and whole sections, that may differ: `ignore=("run_dir", "evaluation")`.
    """
    before, after = dict(_flat("", config_to_dict(old))), dict(_flat("", config_to_dict(new)))
    ignored = tuple(f"{key}." for key in ignore)
    return [
        (key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not f"{key}.".startswith(ignored)
    ]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | Source) else value


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """(dotted key, scalar) pairs; an empty section or list has no pair."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in _flat(f"{name}.{key}" if name else str(key), item)
        ]
    return [(name, value)]
