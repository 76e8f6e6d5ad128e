"""How far a phase has come: a bar on a terminal, a plain line now and then in a log. Same words in both:
"rollouts: 1200/4000 attempts, 24.1 attempts/s, 1 min 56 s left, correct 0.31".

Use it like this:

    console = console_for(rank)
    with track("rollouts", total=4000, unit="attempts", console=console) as bar:
        for batch in batches:
            ...
            bar.advance(len(batch), correct=0.31)
            bar.say("one line above the bar")
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0  # in a log


def console_for(rank: int, file: TextIO | None = None) -> Console:
    """Where a rank prints: rank 0 to stdout (or `file`), the others nowhere. Passed on to whoever prints."""
    return Console(file=file or sys.stdout, quiet=rank != 0)


class _BarsOnly(Console):
    """What `bars_only` makes; it prints where the console prints that it was made from."""


def bars_only(console: Console) -> Console:
    """A console that shows how far work has come while it goes on, and warnings, and nothing else: for many
    runs one after the other, each of which would say a page."""
    return _BarsOnly(file=console.file, quiet=console.quiet, force_terminal=console.is_terminal or None)


def say(console: Console, text: str) -> None:
    """Print a line, as it is; above the bar while one is shown on this console."""
    if not isinstance(console, _BarsOnly):
        warn(console, text)


def warn(console: Console, text: str) -> None:
    """Print a line that has to be seen on any console."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


@dataclass
class Progress:
    """What `track` hands out: call `advance` when some are done."""

    description: str
    total: float | None
    unit: str
    console: Console
    clock: Callable[[], float]
    done: float
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done_before = self.done
        self._start = self._last_line = self.clock()
        self._bar: tuple[RichProgress, TaskID] | None = None

    def advance(self, n: float = 1, **facts: Any) -> None:
        """`n` more are done; `facts` (name=value) stand at the end of the line until they are replaced."""
        self.done += n
        self.facts |= facts
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done, status=self.status())
        elif self.clock() - self._last_line >= LINE_EVERY_S:
            self._last_line = self.clock()
            warn(self.console, f"{self.description}: {self.status()}")

    def show_on(self, bar: RichProgress) -> None:
        """Show every further step on a bar, rather than in lines."""
        task = bar.add_task(self.description, total=self.total, status=self.status())
        bar.update(task, completed=self.done)
        self._bar = bar, task

    def say(self, text: str) -> None:
        """Print a line of another kind, so that it and the bar do not collide."""
        say(self.console, text)

    def status(self) -> str:
        """As in "120/500 attempts, 24.1 attempts/s, 16 s left, correct 0.31"."""
        parts = [self._count()]
        rate = self._rate()
        if rate:
            parts.append(f"{_rate_text(rate)} {self.unit}/s")
            if self.total is not None and self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(parts + self._facts())

    def summary(self) -> str:
        """As in "500/500 attempts in 21 s, 24.1 attempts/s, correct 0.31"."""
        parts = [f"{self._count()} in {duration(self.clock() - self._start)}"]
        rate = self._rate()
        if rate:
            parts.append(f"{_rate_text(rate)} {self.unit}/s")
        return ", ".join(parts + self._facts())

    def _count(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{round(self.done, 1)}{of} {self.unit}"

    def _rate(self) -> float:
        """Per second, of what was done here (a run that goes on did the rest before); 0: not known yet."""
        elapsed = self.clock() - self._start
        return (self.done - self._done_before) / elapsed if elapsed > 0 else 0.0

    def _facts(self) -> list[str]:
        return [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.facts.items()
        ]


@contextmanager
def track(
    description: str,
    total: float | None,
    unit: str,
    *,
    console: Console | None = None,
    rank: int = 0,
    done: float = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Show how far `description` has come, of `total` (None: not known) `unit`s, `done` of them before.

    On a terminal a bar, which leaves one line behind. Elsewhere a line at the start, at most one every 5
    seconds, and one at the end (also when the block raises: it says how far it came). Ranks other than 0
    print nothing.

    Args:
        console: whose lines shall not collide with the bar; by default one on stdout.
        clock: seconds; tests bring their own.
    """
    if console is None or rank != 0:
        console = console_for(rank)
    progress = Progress(description, total, unit, console, clock, done)
    end = "stopped at "
    try:
        if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
            status = TextColumn("{task.fields[status]}", markup=False)
            with RichProgress(*columns, status, console=console, transient=True) as bar:
                progress.show_on(bar)
                yield progress
        else:
            say(console, f"{description}: {progress.status()}")
            yield progress
        end = ""
    finally:
        say(console, f"{description}: {end}{progress.summary()}")


def _rate_text(rate: float) -> str:
    """Three digits without an exponent: "0.25", "24.1", "1060"."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """As in "4.2 s", "56 s", "1 min 05 s", "2 h 03 min", "3 d 04 h"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part:02d} {part_name}"
    return f"{whole} s"
