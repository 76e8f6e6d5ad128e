"""`--help` of every verb says what it reads and writes, gives examples, and names its exit codes; and each
example is a command line that the real parser takes."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("compare e.yaml --seeds 1,2 run_dir=runs/a", ("overrides", ["run_dir=runs/a"])),
        ("run r.yaml a=1 --skip-memory-check b=2 c=3", ("overrides", ["a=1", "b=2", "c=3"])),
        ("doctor r.yaml --json training.lr=1", ("overrides", ["training.lr=1"])),
        ("evaluate r.yaml --stage 1 run_dir=runs/a", ("targets", ["r.yaml", "run_dir=runs/a"])),
        ("evaluate models/a --benchmark math500 runs/b", ("targets", ["models/a", "runs/b"])),
    ],
)
def test_keys_and_folders_may_stand_behind_an_option(command, kept):
    name, words = kept
    assert getattr(cli._parsed(shlex.split(command)), name) == words


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("run r.yaml --skip-memory-check other.yaml", "other.yaml"),
        ("run r.yaml --stage 1", "--stage 1"),
        ("evaluate models/a --benchmarks math500", "--benchmarks math500"),
        ("report runs/a training.lr=1", "training.lr=1"),
    ],
)
def test_what_no_verb_takes_is_still_refused(command, word, capsys):
    with pytest.raises(SystemExit) as ended:
        cli._parsed(shlex.split(command))
    assert ended.value.code == 2
    assert f"unrecognized arguments: {word}" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "said"), [("--seeds=a", "'a': numbers with"), ("--arms=,", "names with")])
def test_a_wrong_list_of_arms_or_seeds_is_told_in_words(option, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli._parsed(["compare", "e.yaml", option])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_and_a_misspelt_key_wait_for_no_torch(tmp_path):
    (tmp_path / "r.yaml").write_text("run_dirr: a\n")
    tried = (
        "import sys; from paced_megatron.cli import main\n"
        f"assert main(['run', {str(tmp_path / 'r.yaml')!r}]) == 2\n"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", tried], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()
