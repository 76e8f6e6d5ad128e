"""The one exception for a mistake of the user's."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake of the user's: one line on stderr and exit code 2, without a traceback.

    The message names the thing (file:line, key, folder) and the remedy.
    """


def may_not_be_read(path: Path) -> UserError:
    """To be raised for a file that is there, and closed to this user."""
    return UserError(f"{path}: may not be read; ask for the permission to")
