"""Times of jobs on a device: CUDA events on a GPU, wall-clock time on a CPU, where dry runs need no better.

Before each timed job the second-level cache is overwritten, so that no job finds what the one before it left
there. The host's share in a job counts, as it does in training: many small kernels cost their starts.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from benchmarks.machine import PEAKS

FLUSH_BYTES = 256 * 2**20
"""written before each timed job; an H200's second-level cache has 60 MB"""


class Clock:
    """Milliseconds and peak memory of one job after the other."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_gpu = device == "cuda"
        self.method = "cuda events" if self.on_gpu else "wall clock"
        self._scratch = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if self.on_gpu else None

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, job: Callable[[], Any]) -> float:
        """Of one call. What it returns is freed before this returns."""
        if self._scratch is None:
            start = time.perf_counter()
            job()
            return 1000 * (time.perf_counter() - start)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        self._scratch.zero_()
        begin.record()
        job()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def peak_bytes(self, job: Callable[[], Any]) -> tuple[Any, int]:
        """What the job returns, and the most memory in use beyond that in use before, results included."""
        peak = PEAKS[self.device]
        self.synchronize()
        before = peak.start()
        returned = job()
        self.synchronize()
        return returned, peak.peak() - before

    def answers(self) -> bool:
        """Whether the device still computes: after an illegal access nothing in this process does."""
        if not self.on_gpu:
            return True
        try:
            return torch.ones(8, device=self.device).sum().item() == 8
        except RuntimeError:
            return False

    def free(self) -> None:
        """Cached memory back to the device. Who times a job next, calls it once before."""
        if self.on_gpu:
            with suppress(RuntimeError):  # a lost device is told by whoever computes on it
                torch.cuda.empty_cache()


def matmul_rate(clock: Clock, size: int, repetitions: int = 10) -> float:
    """FLOP/s of a bf16 product of two random size x size matrices, the median after three warm-ups: what the
    shares of the matmul peak are shares of."""
    torch.manual_seed(1)
    left, right = (torch.randn(size, size, device=clock.device).bfloat16() for _ in range(2))
    out = torch.empty_like(left)
    times = [clock.milliseconds(lambda: torch.mm(left, right, out=out)) for _ in range(repetitions + 3)]
    return 2 * size**3 / (statistics.median(times[3:]) / 1000)


class TookTooLong(BaseException):
    """Raised in the middle of whatever ran when its time was over; no Exception, compilers catch those."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TookTooLong in the block when it has run so long: a compiler, say. Only in the main thread."""

    def over(*_: object) -> None:
        raise TookTooLong(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
