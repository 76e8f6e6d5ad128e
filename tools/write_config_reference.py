"""Write docs/configuration.md from the dataclasses of paced_megatron/config.

python tools/write_config_reference.py            # writes docs/configuration.md
python tools/write_config_reference.py --check    # exit code 1 where the page is out of date
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from paced_megatron.config import Config, Key, Source
from paced_megatron.config.check import is_required, key_of, show_number
from paced_megatron.config.rules import RULES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

OPENING = """\
# Configuration

<!-- Written by tools/write_config_reference.py from paced_megatron/config; do not edit by hand. -->

A run is one YAML file. `paced run CONFIG.yaml key=value ...` reads it, applies the overrides, checks every
key, and says what is wrong in one line before any model is loaded. Where Megatron has a name for a thing, the
key has that name.

The smallest file:

```yaml
run_dir: runs/first
problems: {train: problems.jsonl}
student: {path: models/student}
teacher: {path: models/teacher}
stages:
  - {divergence: forward_kl, train_iters: 100}
```

- **Overrides** are dotted keys, with an entry of a list by its number: `training.lr=1e-5`,
  `stages.0.train_iters=10`. The value is read as YAML (`stages='[{train_iters: 5}]'`), but a key that holds
  text takes it as it stands (`problems.verifier.answer_marker=####`); `null` is null, and a text in double
  quotes understands `\\n`. The last one wins.
- **Relative paths** in the file start at the file's folder, so that a recipe runs from anywhere. In an
  override they start at the current directory. `run_dir` starts at the current directory in both. `~` is your
  home.
- **Numbers** may be written `1e-6`, and a whole number serves where a fraction may stand; otherwise types are
  strict: `"8"`, `8.0` and `yes` are no whole numbers.
- A key twice in one section, an unknown key and a missing one are errors.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if the page is out of date"
    )
    arguments = parser.parse_args()
    text = reference()
    if arguments.check:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.name} is out of date; run python tools/write_config_reference.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """The whole page as Markdown."""
    rules = [f"- `{key}` {words}." for key, words, _ in RULES]
    return "\n".join([OPENING, *sections(Config, ""), "## Rules that join keys\n", *rules, ""])


def sections(cls: type, name: str) -> list[str]:
    """The section of one dataclass, then those of the dataclasses in it."""
    hints = get_type_hints(cls, include_extras=True)
    rows, inner = [], []
    for field in dataclasses.fields(cls):
        dotted = f"{name}.{field.name}" if name else field.name
        hint = hints[field.name]
        about = key_of(hint)
        if about is not None:
            rows.append(row(dotted, field, get_args(hint)[0], about))
        elif get_origin(hint) is list:
            inner += sections(get_args(hint)[0], f"{dotted}.0")
        else:
            inner += sections(hint, dotted)
    title = f"## `{name.replace('.0', '[]')}`" if name else "## The run"
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    return [f"{title}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n", "\n".join(table) + "\n", *inner]


def row(dotted: str, field: dataclasses.Field[Any], hint: Any, about: Key) -> str:
    """One line of a table."""
    default = "required" if is_required(field) else f"`{show_default(field)}`"
    cells = (f"`{dotted}`", show_type(hint) + show_range(about), default, about.doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show_type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(
            "null" if option is types.NoneType else show_type(option) for option in get_args(hint)
        )
    if get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(hint))
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    names[Source] = "path or hf://"
    if get_origin(hint) is list:
        return f"list of {show_type(get_args(hint)[0])}"
    return "keys and values" if get_origin(hint) is dict else names[hint]


def show_range(about: Key) -> str:
    signs = [(about.at_least, "≥"), (about.above, ">"), (about.at_most, "≤"), (about.below, "<")]
    bounds = [f"{sign} {show_number(bound)}" for bound, sign in signs if bound is not None]
    if about.off is not None:
        bounds.append(f"or {about.off:g}")
    return f", {', '.join(bounds)}" if bounds else ""


def show_default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    if field.default is None:
        return "null"
    return str(field.default)


if __name__ == "__main__":
    sys.exit(main())
