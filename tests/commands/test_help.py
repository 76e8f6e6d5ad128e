"""`--help` of every verb says what it reads and writes, gives examples, and names its exit codes; and each
example is a command line that the real parser takes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from paced_megatron import cli

ROOT = Path(__file__).resolve().parents[2]
_CONTINUED = re.compile(r"\\\n\s*")
_EXAMPLE = re.compile(r"^  (?:torchrun .* -m paced_megatron\.cli|paced) (.*)$", re.MULTILINE)


def parsers(
    parser: argparse.ArgumentParser, name: str = "paced"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Name -> parser, of `paced`, its verbs, and their directions."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                yield from parsers(inner, f"{name} {verb}")


PARSERS = dict(parsers(cli._parser()))
EXAMPLES = [
    (name, command)
    for name, parser in PARSERS.items()
    for command in _EXAMPLE.findall(_CONTINUED.sub("", parser.epilog or ""))
]


@pytest.mark.parametrize("name", PARSERS)
def test_help_describes_it_gives_examples_of_it_and_names_its_exit_codes(name):
    parser = PARSERS[name]
    assert len(parser.description or "") > 30
    assert "Exit codes: 0 " in parser.format_help().replace("\n", " ")
    of_it = [f"paced {command}" for of, command in EXAMPLES if of == name]
    assert of_it and all(command.startswith(f"{name} ") or command == name for command in of_it), of_it


# `paced` and `paced convert` are no work by themselves; `evaluate` and the directions have other forms.
@pytest.mark.parametrize(
    "name", [name for name in PARSERS if name.count(" ") == 1 and name != "paced evaluate"]
)
def test_help_says_what_it_reads_and_what_it_writes(name):
    said = PARSERS[name].format_help()
    assert "\nreads: " in said and "\nwrites: " in said


@pytest.mark.parametrize(("name", "command"), EXAMPLES)
def test_the_parser_takes_each_example_and_its_files_are_there(name, command):
    words = shlex.split(command)
    options = cli._parser().parse_args(words)
    assert options.verb == words[0]
    ours = [word for word in words if word.startswith("examples/")]
    assert all((ROOT / word).is_file() for word in ours), ours
    asked = [value for value in getattr(options, "overrides", []) if "=" not in value]
    assert not asked, f"taken for key=value: {asked}"


def test_each_help_is_shown_with_its_line_breaks(capsys):
    for name in PARSERS:
        with pytest.raises(SystemExit) as ended:
            cli.main([*name.split()[1:], "--help"])
        assert ended.value.code == 0
        assert "\nexamples:\n  " in capsys.readouterr().out, name
