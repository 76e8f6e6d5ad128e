"""A time limit for code of others that may compute for ever."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.2


class OutOfTime(BaseException):
    """The time limit has passed. No Exception, so that the code it interrupts does not swallow it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime inside the `with` block after so many seconds (a float; wall clock).

    The timer strikes again every 0.2 s in case a bare `except:` or a destructor swallowed the first one. It
    is the process's SIGALRM timer, so this works in the main thread only (RuntimeError elsewhere); an outer
    user's handler and timer (a test runner's, say) are put back, less the time that passed. Python code and
    big-integer arithmetic are interrupted; a call that stays in somebody's C code is not.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a verifier with a time limit must be called from the main thread")
    if seconds <= 0:
        raise ValueError(f"a time limit of {seconds} s")  # setitimer would take 0 as "no limit"

    def strike(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"more than {seconds} s")

    old_handler = signal.signal(signal.SIGALRM, strike)
    started = time.monotonic()
    old_delay, old_interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # once more, should the timer have struck on the way here
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old_handler)
            if old_delay:
                left = old_delay - (time.monotonic() - started)
                signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), old_interval)
