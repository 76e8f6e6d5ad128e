"""SIGTERM and SIGUSR1: finish the unit at hand, save, and end with the code that means "start me again".

A cluster sends them before it takes a node away. A process only notes the first one here; the places where
nothing would be lost look (`Lead.stop_if_asked`, a training step's reduction) and raise `Stopped` on all
ranks alike. A second one ends the process at once, as if it had been killed.

What comes is read by a thread, from the file descriptor to which Python's C handler writes: a handler in
Python would have to wait until the main thread comes back from a collective that may never end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A cluster signals every process of a job, and launchers hand on what they get: one request, heard twice.
SAME_REQUEST_S = 1.0


class Stopped(BaseException):
    """Raised where work stops because it was asked to, on every rank. Like KeyboardInterrupt it is no error,
    and no `except Exception` takes it for one."""

    def __init__(self, asked: str, saved: str) -> None:
        """`asked`: the signal's name; `saved`: what is on disk, for a person."""
        super().__init__(f"stopped by {asked}: {saved}; the same command goes on from here")
        self.asked, self.saved = asked, saved


_heard: list[signal.Signals] = []  # the first one, since `listening` was entered
_listens = False


def asked_to_stop() -> str | None:
    """The name of the signal that this process has heard ("SIGTERM"), or None."""
    return _heard[0].name if _heard else None


def as_number(name: str | None) -> int:
    """The number of the signal of this name, or 0: to be reduced over ranks."""
    return int(signal.Signals[name]) if name else 0


def stop_if_asked(saved: str) -> None:
    """Raise Stopped where this process has been asked to. For a process that is not (yet) part of a job."""
    if name := asked_to_stop():
        raise Stopped(name, saved)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """While it is entered SIGTERM raises KeyboardInterrupt, as Ctrl-C does: for a process that has nothing to
    save and something to clear away. In a thread other than the main one nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def listening() -> Iterator[None]:
    """While it is entered the first stop signal is noted and a second one ends the process. Signals that came
    before and were blocked (`launch` blocks them in a rank that only starts) are heard now.

    In a thread other than the main one nothing happens: Python lets that one alone choose handlers.
    """
    global _listens
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _heard.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_listen, args=(reader,), name="stop-signals", daemon=True)
    thread.start()
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _nothing) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.siginterrupt(number, False)  # no library below us need know of interrupted calls
    _listens = True
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        _listens = False
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


def _nothing(number: int, frame: object) -> None:
    """A handler has to be there, or Python's C handler isn't; the thread does the work."""


def _listen(reader: int) -> None:
    first_at = 0.0
    while number := os.read(reader, 1)[0]:
        if number not in STOP_SIGNALS:
            continue
        if not _heard:
            first_at = time.monotonic()
            _heard.append(signal.Signals(number))
        elif time.monotonic() - first_at > SAME_REQUEST_S:
            _end_at_once(signal.Signals(number))


def _end_at_once(number: signal.Signals) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"paced: {number.name} after a first one: ended at once, unsaved", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _forget_in_child() -> None:
    """A forked child (a checkpoint's writer) would write what it hears into its parent's pipe."""
    if _listens and threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)
