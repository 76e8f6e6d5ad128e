"""Arguments that several verbs have."""

from __future__ import annotations

import argparse


def add_overrides(command: argparse.ArgumentParser) -> None:
    """`key=value ...` behind the file."""
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="replaces a key of the file, e.g. training.lr=3e-6"
    )


def add_skip_memory_check(command: argparse.ArgumentParser) -> None:
    """For where the estimate is wrong."""
    command.add_argument(
        "--skip-memory-check",
        action="store_true",
        help="on GPUs: begin although the memory that `paced plan` counts is more than there is",
    )
