"""What a command ends with; launchers and scripts may rely on it."""

from __future__ import annotations

DONE = 0
FAILED = 1
USER_ERROR = 2  # a mistake in the input; argparse's own code too
INTERRUPTED = 130  # what a shell reports after Ctrl-C
