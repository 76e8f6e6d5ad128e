"""Seconds of a step's phases, on a GPU without waiting for it in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from paced_megatron.runtime.transfer import to_device

PHASES = ("teacher", "student", "loss", "communication", "optimizer")
"""student: forward and backward passes, with what they send each other, without the loss and without
communication: gradients summed over the copies after the last backward pass"""

_PASSES = "passes"  # the whole of the student's schedule: student, loss and communication


class PhaseTimers:
    """Each phase's beginning and end: by the clock on a CPU, by events in the stream on a GPU, which are read
    once, when the step is over.

    Args:
        device: of the model, whatever else the machine has.
    """

    def __init__(self, device: torch.device) -> None:
        self._mark = _event if device.type == "cuda" else time.perf_counter
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Its time counts to `name`, as often as it is entered."""
        begin = self._mark()
        yield
        self._marks.append((name, begin, self._mark()))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counting to `name`."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return wrapped

    def passes(self) -> Any:
        """Around the student's schedule, within which `loss` and `communication` are."""
        return self.phase(_PASSES)

    def seconds(self, device: torch.device, *also: float) -> tuple[dict[str, float], list[float]]:
        """A number for each of PHASES, of the rank on which it took longest; and all are at zero again. A
        collective over all ranks of the job.

        It is the one reduction of a step over all of them, so that `also` goes along; the second result is
        the largest of each that a rank gave.
        """
        totals = dict.fromkeys((*PHASES, _PASSES), 0.0)
        if self._marks and not isinstance(self._marks[-1][2], float):
            self._marks[-1][2].synchronize()  # all are in one stream, and this one is the last
        for name, begin, end in self._marks:
            totals[name] += _between(begin, end)
        self._marks.clear()
        totals["student"] = totals.pop(_PASSES) - totals["loss"] - totals["communication"]
        values = [*(totals[name] for name in PHASES), *also]
        longest = to_device(torch.tensor(values, dtype=torch.float64), device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        seconds = longest.tolist()
        return dict(zip(PHASES, seconds, strict=False)), seconds[len(PHASES) :]


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return end - begin
    return begin.elapsed_time(end) / 1000
