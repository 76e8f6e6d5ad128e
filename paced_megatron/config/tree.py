"""A YAML file and its overrides as one tree, in which every value knows where it was said.

Nothing here knows which keys there are; `check.py` does. `io.py` is the file to open first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode, SequenceNode

from paced_megatron.errors import UserError


@dataclass(frozen=True)
class Node:
    """One value: a dict or list of Nodes, or a scalar as YAML reads it."""

    value: Any
    where: str  # "run.yaml:12" or "override training.lr=0", to open an error message with
    folder: Path  # where a relative path starts
    quoted: bool = False
    literal: str | None = None  # what stood behind an override's "="

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def describe(self) -> str:
        """The value in a few words, for "must be a number, not ..."."""
        kinds = {dict: "a section of keys", list: "a list", type(None): "null", bool: str(self.value).lower()}
        if isinstance(self.value, str):
            return repr(self.value)
        return kinds.get(type(self.value), str(self.value))

    def find(self, dotted: str) -> Node:
        """The node at a dotted key, or the nearest one above it that is there."""
        node = self
        for key in dotted.split("."):
            if isinstance(node.value, dict) and key in node.value:
                node = node.value[key]
            elif isinstance(node.value, list) and key.isdecimal() and int(key) < len(node.value):
                node = node.value[int(key)]
            else:
                break
        return node


def from_python(data: Any, where: str, folder: Path) -> Node:
    """A tree of plain values, all said at one place."""
    if isinstance(data, Mapping):
        return Node({str(key): from_python(item, where, folder) for key, item in data.items()}, where, folder)
    if isinstance(data, list | tuple):
        return Node([from_python(item, where, folder) for item in data], where, folder)
    return Node(str(data) if isinstance(data, Path) else data, where, folder)


def read_yaml(text: str, name: str, folder: Path) -> Node:
    """Parse one YAML document (nothing executable, no key twice); `name` is the file's, for messages."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return Node(None, name, folder)
        _refuse_duplicates(root, name, set())
        return replace(_convert(root, loader, name, folder, ()), where=name)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        what = ": ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{name}{line}: not valid YAML: {what}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: brackets or sections lie too deep in each other") from None


def _line(node: yaml.Node, name: str) -> str:
    return f"{name}:{node.start_mark.line + 1}"


def _refuse_duplicates(node: yaml.Node, name: str, seen: set[int]) -> None:
    """PyYAML lets the last of two equal keys win, silently."""
    if id(node) in seen:  # an alias, or the start of a circle
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name, seen)
    if isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                raise UserError(
                    f"{_line(key, name)}: a key must be text; braces in a text need quotes around it"
                )
            if key.value in lines:
                first = lines[key.value]
                raise UserError(
                    f"{_line(key, name)}: key {key.value} twice (first in line {first}); remove one"
                )
            lines[key.value] = key.start_mark.line + 1
            _refuse_duplicates(item, name, seen)


def _convert(
    node: yaml.Node, loader: yaml.SafeLoader, name: str, folder: Path, above: tuple[yaml.Node, ...]
) -> Node:
    where = _line(node, name)
    if node in above:
        raise UserError(f"{where}: a section that contains itself; remove the alias (*)")
    if not isinstance(node, ScalarNode) and not node.tag.endswith((":map", ":seq")):
        raise UserError(f"{where}: the tag {node.tag} has no meaning here; remove it")
    above = (*above, node)
    if isinstance(node, MappingNode):
        loader.flatten_mapping(node)  # `<<: *other` becomes the other's keys, in front, so that own keys win
        children = {
            key.value: replace(_convert(item, loader, name, folder, above), where=_line(key, name))
            for key, item in node.value
        }
        return Node(children, where, folder)
    if isinstance(node, SequenceNode):
        return Node([_convert(item, loader, name, folder, above) for item in node.value], where, folder)
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError, AttributeError) as error:  # 2026-13-41, which looks like a date
        raise UserError(
            f"{where}: {node.value[:40]!r} cannot be read ({error}); put it in quotes if it is text"
        ) from None
    return Node(value, where, folder, quoted=isinstance(node, ScalarNode) and node.style is not None)


def apply_override(tree: Node, override: str) -> Node:
    """The tree with one value replaced, as in `stages.0.train_iters=10` or `problems.fields={id: name}`.

    The value is read as YAML; keys that hold text take it as it stands. Sections on the way are made. Raises
    UserError.
    """
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not equals or not all(dotted.split(".")):
        raise UserError(f"override {override}: must be key=value, e.g. training.lr=1e-5")
    where = f"override {override}"
    try:
        node = read_yaml(text, where, Path.cwd())
        if node.value is None and text.lstrip().startswith("#"):  # not a comment here: answer_marker=####
            node = replace(node, value=text)
    except UserError:
        node = Node(text, where, Path.cwd())
    return _replaced(tree, dotted.split("."), _said_at(where, replace(node, literal=text)), "")


def replace_key(tree: Node, dotted: str, node: Node) -> Node:
    """The tree with the value at a dotted key replaced by `node`, as an override does. Raises UserError."""
    return _replaced(tree, dotted.split("."), node, "")


def _said_at(where: str, node: Node) -> Node:
    """The tree with one `where` all over: an override has no lines."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _said_at(where, child) for key, child in value.items()}
    if isinstance(value, list):
        value = [_said_at(where, child) for child in value]
    return replace(node, value=value, where=where)


def _replaced(tree: Node, keys: list[str], new: Node, name: str) -> Node:
    if not keys:
        return new
    key, *rest = keys
    inner = f"{name}.{key}" if name else key
    if isinstance(tree.value, list):
        if not (key.isdecimal() and int(key) < len(tree.value)):
            raise UserError(f"{new.where}: {name} has the entries 0 to {len(tree.value) - 1}, and no {key}")
        entries = list(tree.value)
        entries[int(key)] = _replaced(entries[int(key)], rest, new, inner)
        return replace(tree, value=entries)
    if tree.value is not None and not isinstance(tree.value, dict):
        raise UserError(f"{new.where}: {name} is a single value ({tree.describe()}) and has no key {key}")
    children = tree.value or {}
    child = children.get(key, Node(None, new.where, new.folder))
    return replace(tree, value={**children, key: _replaced(child, rest, new, inner)})
