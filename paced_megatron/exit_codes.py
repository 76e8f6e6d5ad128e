"""What a command ends with; launchers and scripts may rely on it."""

from __future__ import annotations

DONE = 0
FAILED = 1
USER_ERROR = 2  # a mistake in the input; argparse's own code too
# Stopped by SIGTERM or SIGUSR1, everything saved: start the same command again. EX_TEMPFAIL of <sysexits.h>,
# for both signals: a script that requeues need not know which one the cluster sends, and 143 stays what it is
# elsewhere, a process that SIGTERM has killed.
STOPPED = 75
INTERRUPTED = 130  # what a shell reports after Ctrl-C
