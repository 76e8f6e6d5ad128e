"""The one exception for a mistake of the user's."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: one line on stderr and exit code 2, without a traceback.

    The message names the thing (file:line, key, folder) and the remedy.
    """
