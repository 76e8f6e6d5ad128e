"""Arguments that several verbs have."""

from __future__ import annotations

import argparse


def add_overrides(command: argparse.ArgumentParser) -> None:
    """`key=value ...` behind the file."""
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="replaces a key of the file, e.g. training.lr=3e-6"
    )
