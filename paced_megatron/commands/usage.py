"""What `--help` of a verb says: one form for all of them."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import dataclass

# Of a verb that works for long.
LONG_EXIT_CODES = (
    "0 done, 1 failed, 2 a mistake in the input, 75 stopped by SIGTERM or SIGUSR1 with everything saved "
    "(start the same command again), 130 interrupted"
)
SHORT_EXIT_CODES = "0 done, 1 failed, 2 a mistake in the input"
WIDTH = 100


@dataclass(frozen=True)
class Usage:
    """Attributes:
    description: what the verb does.
    reads, writes: which files; where there are others, servers too.
    examples: (command, what it does); tests/commands/test_help.py parses each command.
    exit_codes: which, and what each means.
    """

    description: str
    reads: str
    writes: str
    examples: tuple[tuple[str, str], ...]
    exit_codes: str = LONG_EXIT_CODES


def explain(command: argparse.ArgumentParser, usage: Usage) -> None:
    """Give a verb's parser its texts."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = _wrapped(usage.description)
    examples = "\n".join(f"  {line}\n{_wrapped(what, 6)}" for line, what in usage.examples)
    parts = (
        _wrapped(f"reads: {usage.reads}", hanging=2),
        _wrapped(f"writes: {usage.writes}", hanging=2),
        f"examples:\n{examples}",
        _wrapped(f"Exit codes: {usage.exit_codes}."),
    )
    command.epilog = "\n\n".join(parts)


def _wrapped(text: str, indent: int = 0, hanging: int = 0) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_on_hyphens=False,
        break_long_words=False,
    )
