"""One size measured: each case checked against float64, and timed in turns with the others; its CSV rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.divergence_variants import Models
from benchmarks.gpu.clock import Clock, TookTooLong, at_most
from benchmarks.gpu.divergence_accuracy import Reference
from benchmarks.gpu.divergence_variants import NO_DIVERGENCE, Case, NotHere
from benchmarks.gpu.roofline import Size

NOISE = 0.5
"""of the teacher in the models that are timed: about 1 nat per token"""
NOISE_CLOSE = 0.038
"""and in those whose gradient is checked as well: about 0.0066 nats, where a distillation ends"""
FIRST_CALLS_SECONDS = 90.0
"""that a variant may take for its first calls, compiling included; no more than its size's share has left,"""
LEAST_FIRST_CALLS_SECONDS = 10.0
"""but so many"""


class DeviceLost(Exception):
    """The device answers no more: what was measured is kept, and nothing more can be."""


@dataclass
class Record:
    """What became of one case at one size."""

    case: Case
    milliseconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    error: float | None = None
    error_close: float | None = None
    notes: list[str] = field(default_factory=list)
    runs: bool = True
    """False from the moment on at which it failed"""

    def fail(self, error: BaseException) -> None:
        """The row says why; times so far are dropped, a variant that fails has none."""
        self.runs = False
        self.milliseconds.clear()
        if isinstance(error, torch.cuda.OutOfMemoryError):
            self.notes.append("out of memory")
        elif isinstance(error, ModuleNotFoundError):
            self.notes.append(f"{error.name} is not installed")
        elif isinstance(error, NotHere | TookTooLong):
            self.notes.append(str(error))
        else:
            self.notes.append(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:150]}")


def measure_size(
    size: Size,
    cases: Sequence[Case],
    clock: Clock,
    *,
    dtype: torch.dtype,
    checked_tokens: int,
    repetitions: int,
    least: int,
    until: float,
) -> tuple[list[Record], bool]:
    """Repetitions as long as one more ends before `until` (time.monotonic()), but at least `least`.

    Returns the records, and whether the device was lost.
    """
    records = [Record(case) for case in cases]
    lost = False
    try:
        models = _models(size, clock, dtype, NOISE)
        _check(records, models, _models(size, clock, dtype, NOISE_CLOSE), checked_tokens, clock, until)
        last = 0.0
        for done in range(repetitions):
            if done >= least and time.monotonic() + last > until:
                break
            last = _one_repetition(records, models, clock)
    except torch.cuda.OutOfMemoryError as error:  # the models themselves, or float64
        for record in records:
            record.fail(error)
    except DeviceLost:
        lost = True
        for record in records:
            if record.runs and not record.milliseconds:
                record.notes.append("not measured: the device was lost")
    clock.free()
    return records, lost


def _models(size: Size, clock: Clock, dtype: torch.dtype, noise: float) -> Models:
    wider_by = size.teacher - size.student
    return Models.of(
        size.vocabulary, size.tokens, size.student, clock.device, dtype, noise=noise, wider_by=wider_by
    )


def _check(
    records: Sequence[Record], models: Models, close: Models, tokens: int, clock: Clock, until: float
) -> None:
    """The first calls: errors, peak memory, and what compiling took."""
    names = sorted({record.case.divergence for record in records} - {NO_DIVERGENCE})
    references = [Reference.of(of, names, tokens) for of in (models, close)]
    for record in records:
        left = until - time.monotonic()
        if left < 0 and record.case.variant != "floor":
            record.runs = False
            record.notes.append("not measured: this size's share of the minutes was spent")
            continue
        clock.free()
        start = time.monotonic()
        try:
            with at_most(min(FIRST_CALLS_SECONDS, max(left, LEAST_FIRST_CALLS_SECONDS))):
                _check_one(record, models, close, references, clock)
        except (Exception, TookTooLong) as error:  # whatever a library raises is this row's, and no other's
            _failed(record, error, clock)
        if record.case.compiles and record.runs:
            record.notes.append(f"first calls {time.monotonic() - start:.0f} s")


def _failed(record: Record, error: BaseException, clock: Clock) -> None:
    """Raises DeviceLost where it was not only the variant that failed."""
    record.fail(error)
    clock.free()
    if not clock.answers():
        raise DeviceLost from error


def _check_one(
    record: Record, models: Models, close: Models, references: Sequence[Reference], clock: Clock
) -> None:
    case = record.case
    errors: list[float] = []
    for of, reference in zip((models, close), references, strict=True):
        hidden, head = case.make(of, case.divergence)()
        if case.divergence != NO_DIVERGENCE:
            errors.append(reference.error(hidden, case.divergence))
            if not head.isfinite().all():
                record.notes.append("a number of the head's gradient is not finite")
        del hidden, head
    if errors:
        record.error, record.error_close = errors
    _, peak = clock.peak_bytes(case.make(models, case.divergence))
    record.peak_mb = peak / 2**20


def _one_repetition(records: Sequence[Record], models: Models, clock: Clock) -> float:
    """Seconds that it took. No variant finds memory that is cached for another one: a call that isn't timed
    fetches what the timed one then finds."""
    start = time.monotonic()
    for record in records:
        if not record.runs:
            continue
        clock.free()
        try:
            job = record.case.make(models, record.case.divergence)
            job()
            record.milliseconds.append(clock.milliseconds(job))
            del job
        except Exception as error:
            _failed(record, error, clock)
    return time.monotonic() - start


def rows(
    records: Sequence[Record], size: Size, about: dict[str, object], peak: float
) -> list[dict[str, str]]:
    """CSV rows; peak: FLOP/s of the large product of this run."""
    floors = next((r.milliseconds for r in records if r.case.variant == "floor"), [])
    made = []
    for record in records:
        row: dict[str, object] = {
            **about,
            "N": size.tokens,
            "H_s": size.student,
            "H_t": size.teacher,
            "V": size.vocabulary,
            "variant": record.case.variant,
            "divergence": record.case.divergence,
            "median_ms": "",
            "min_ms": "",
            "over_floor": "",
            "share_of_matmul_peak": "",
            "tflops": "",
            "peak_mb": "",
            "grad_rel_error": _number(record.error),
            "grad_rel_error_close": _number(record.error_close),
            "repetitions": len(record.milliseconds),
            "matmul_peak_tflops": f"{peak / 1e12:.4g}",
            "note": "; ".join(dict.fromkeys(record.notes)),
        }
        if record.milliseconds:
            median = statistics.median(record.milliseconds)
            rate = size.flops / (median / 1000)
            row |= {
                "median_ms": f"{median:.4g}",
                "min_ms": f"{min(record.milliseconds):.4g}",
                "share_of_matmul_peak": f"{rate / peak:.3f}",
                "tflops": f"{rate / 1e12:.4g}",
                "peak_mb": f"{record.peak_mb:.0f}",
            }
            # Of one moment each: the floor is the first of every repetition. A lost device can cut one short.
            ratios = [mine / floor for mine, floor in zip(record.milliseconds, floors, strict=False)]
            if ratios:
                row["over_floor"] = f"{statistics.median(ratios):.3f}"
        made.append({key: str(value) for key, value in row.items()})
    return made


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
