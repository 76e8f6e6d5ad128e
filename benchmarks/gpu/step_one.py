"""One variant of the step in a process of its own, started by step.py: rows on standard output."""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.gpu.step_shapes import REAL, TINY, Batch, done_flop, useful_flop
from benchmarks.machine import PEAKS

SIGN = "ROW "


class Variant(Protocol):
    optimizer: str
    made_of: str

    def prepare(self, batch: Batch) -> None: ...

    def step(self) -> torch.Tensor | float: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Job:
    """What one process has to do.

    Attributes:
        variant: a row of VARIANTS.
        folder: of `write_models`.
        measures: among step, text, batch; empty: those of the variant.
        lengths, tokens: steps are timed of `tokens // length` texts, at least one.
        ends: when all of it has to be done, by time.monotonic(), which a machine's processes share.
        repetitions: of a step, at most.
        first_text, most_text, text_step: where the search for the longest text begins and ends, and how fine
            it is.
        batch_length: tokens of each text in the search for the largest batch.
        matmul: rows and columns of the product whose rate is the yardstick.
    """

    variant: str
    folder: str
    device: str
    dtype: str
    dry_run: bool
    measures: list[str]
    lengths: list[int]
    tokens: int
    ends: float
    repetitions: int
    lr: float
    first_text: int
    most_text: int
    text_step: int
    batch_length: int
    first_batch: int
    most_batch: int
    matmul: int

    @property
    def line(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Kind:
    """A variant: where its class is, with which settings; what is worth measuring of it; and what it does
    beside the useful work. Megatron and TRL take seconds to import, so each process has its own alone."""

    module: str
    name: str
    measures: tuple[str, ...]
    settings: Mapping[str, bool] = field(default_factory=dict)
    all_logits: bool = False
    recompute: bool = False

    def make(self, job: Job) -> Variant:
        made = getattr(importlib.import_module(f"benchmarks.gpu.{self.module}"), self.name)
        device = {"device": job.device} if self.module == "step_peers" else {}
        return made(Path(job.folder), getattr(torch, job.dtype), job.lr, **device, **self.settings)


def _ours(*measures: str, **settings: bool) -> Kind:
    return Kind("step_ours", "Ours", measures, settings, recompute=settings.get("recompute", False))


def _transformers(*measures: str, **settings: bool) -> Kind:
    again = settings.get("recompute", False)
    return Kind("step_peers", "Transformers", measures, settings, all_logits=True, recompute=again)


def _trl(*measures: str, **settings: bool) -> Kind:
    again = settings.get("recompute", False) or settings.get("defaults", False)
    full = not settings.get("distillation", False)
    return Kind("step_peers", "Trl", measures, settings, all_logits=full, recompute=again)


VARIANTS: dict[str, Kind] = {
    "ours": _ours("step", "text", "batch"),
    "trl gkd": _trl("step", "text", "batch"),
    "trl distillation": _trl("step", "text", "batch", distillation=True),
    "transformers": _transformers("step", "text", "batch"),
    "ours, recompute": _ours("text", "batch", "step", recompute=True),
    "trl gkd, recompute": _trl("text", "batch", "step", recompute=True),
    "trl distillation, recompute": _trl("text", distillation=True, recompute=True),
    "ours, packed": _ours("step", packed=True),
    "trl gkd, liger": _trl("step", liger=True),
    "transformers, recompute": _transformers("text", recompute=True),
    "trl gkd, defaults": _trl("step", "text", defaults=True),
}
"""in the order in which they are run, for time may be short"""


def check(variant: Variant, job: Job, vocab_size: int) -> dict[str, Any]:
    """The loss of a small batch with the weights as they are, and after two steps: the same for all."""
    batch = Batch.of(3, min(job.lengths), vocab_size)
    variant.prepare(batch)
    losses = [float(variant.step()) for _ in range(3)]
    return {
        "what": "check",
        "batch": batch.size,
        "length": batch.length,
        "prompt": batch.prompt,
        "loss_first": f"{losses[0]:.8g}",
        "loss_third": f"{losses[2]:.8g}",
    }


def timed(variant: Variant, job: Job, length: int, seconds: float, matmul_rate: float) -> dict[str, Any]:
    pair, kind = (TINY if job.dry_run else REAL), VARIANTS[job.variant]
    batch = Batch.of(max(1, job.tokens // length), length, pair.student.vocab_size)
    row: dict[str, Any] = {"what": "step", "batch": batch.size, "length": length, "prompt": batch.prompt}
    begun, took = time.monotonic(), []
    variant.prepare(batch)
    try:
        for _ in range(2):
            variant.step()
        wait(job.device)
        PEAKS[job.device].start()
        while len(took) < 3 or (len(took) < job.repetitions and time.monotonic() - begun < seconds):
            start = time.perf_counter()
            variant.step()
            wait(job.device)
            took.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return row | {"status": "out of memory"}
    median = statistics.median(took)
    useful = useful_flop(pair, batch)
    done = done_flop(pair, batch, all_logits=kind.all_logits, recompute=kind.recompute)
    return row | {
        "median_ms": f"{median * 1e3:.5g}",
        "min_ms": f"{min(took) * 1e3:.5g}",
        "max_ms": f"{max(took) * 1e3:.5g}",
        "repetitions": len(took),
        "tokens_per_s": f"{batch.size * length / median:.5g}",
        "tflop_useful": f"{useful / 1e12:.4g}",
        "tflop_done": f"{done / 1e12:.4g}",
        "matmul_tflop_per_s": f"{matmul_rate / 1e12:.4g}",
        "share_of_matmul": f"{useful / median / matmul_rate:.4g}",
        "peak_mb": f"{PEAKS[job.device].peak() / 2**20:.0f}",
    }


def largest(
    try_one: Callable[[int], str | None],
    start: int,
    most: int,
    step: int,
    until: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, str]:
    """(the largest number for which `try_one` returns None, what bounds it): doubled from `start`, then
    halved between, to a multiple of `step` and to a sixteenth. What bounds it is what `try_one` said of a
    larger one; "time"; or "not tried beyond".

    Args:
        until: by the clock. What by the square of the last try's number would take longer is not begun.
    """
    found, bound, upper, size, took = 0, "not tried beyond", most + 1, min(start, most), 0.0
    while found < size < upper:
        if clock() + took * (size / max(found, 1)) ** 2 > until:
            return found, "time"
        begun, problem = clock(), try_one(size)
        if problem is None:
            found, took = size, clock() - begun
        else:
            upper, bound = size, problem
        if upper > most:
            size = min(2 * found, most)
        else:
            fine = max(step, found // 16 // step * step)
            size = max((found + upper) // 2 // step * step, found + fine if found else step)
    return found, bound


def search(variant: Variant, job: Job, what: str, seconds: float, vocab_size: int) -> dict[str, Any]:
    text = what == "text"

    def try_one(number: int) -> str | None:
        size, length = (1, number) if text else (number, job.batch_length)
        try:
            variant.prepare(Batch.of(size, length, vocab_size))
            variant.step()  # the optimizer's state is there since the check
            wait(job.device)
            return None
        except torch.OutOfMemoryError:
            return "out of memory"
        except (RuntimeError, ValueError) as error:  # 32-bit indices, for one
            return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        finally:
            free(job.device)

    start, most, step = (
        (job.first_text, job.most_text, job.text_step) if text else (job.first_batch, job.most_batch, 1)
    )
    found, bound = largest(try_one, start, most, step, time.monotonic() + seconds)
    shape = {"batch": 1} if text else {"length": job.batch_length}
    return {"what": "longest text" if text else "largest batch", **shape, "found": found, "bound": bound}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations per second of a product of two random square matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    took = []
    for _ in range(13):
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        took.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(took[3:])


def main() -> int:
    warnings.filterwarnings("ignore")
    job = Job(**json.loads(sys.argv[1]))
    kind = VARIANTS[job.variant]
    vocab_size = (TINY if job.dry_run else REAL).student.vocab_size
    rate = matmul_rate(job.device, getattr(torch, job.dtype), job.matmul)
    variant = kind.make(job)
    same = {
        "variant": job.variant,
        "status": "ok",
        "dtype": job.dtype,
        "optimizer": variant.optimizer,
        "made_of": variant.made_of,
        "recompute": int(kind.recompute),
    }

    def show(row: dict[str, Any]) -> None:
        free(job.device)
        print(SIGN + json.dumps(same | row), flush=True)

    show(check(variant, job, vocab_size))
    measures = job.measures or kind.measures
    searches = [name for name in measures if name != "step"]
    if "step" in measures:
        share = (job.ends - time.monotonic()) / (len(job.lengths) + 2 * len(searches))
        for length in job.lengths:
            show(timed(variant, job, length, min(share, 20.0), rate))
    for number, name in enumerate(searches):
        share = (job.ends - time.monotonic()) / (len(searches) - number)
        show(search(variant, job, name, share, vocab_size))
    variant.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
