"""Time and memory of forward_kl with all gradients, over the least that a head costs, and beside plain torch.

    python benchmarks/divergence.py                   # 12 minutes; results/divergence-DATE.csv
    python benchmarks/divergence.py --quick           # seconds, a small vocabulary: does it run at all
    python benchmarks/divergence.py --sizes 256x1024 1024x1024:bfloat16 --repetitions 5 --minutes 60

`benchmarks/README.md` says what the columns mean. The variants take turns, repetition by repetition, so that
whatever else the machine does meets all of them; the ratio is that of neighbours in time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from divergence_variants import VARIANTS, Make, Models, compiled
from machine import PEAKS, about_this_run, add_rows, busy_seconds

ROOT = Path(__file__).resolve().parents[1]
QWEN3_VOCABULARY = 151_936
SIZES = ["256x1024", "256x2048", "1024x1024", "1024x1024:bfloat16", "1024x2048", "2048x1024", "2048x2048"]
MB = 2**20
PRINTED = ["tokens", "hidden_size", "dtype", "variant", "median_s", "over_floor", "cpu_s", "cpu_over_floor"]
PRINTED += ["peak_mb", "cores_of_others", "note"]


@dataclass
class Record:
    """What the repetitions of one variant at one size gave."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    loads: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    note: str = ""

    def measure(self, make: Make, models: Models, workspace_mb: float | None) -> None:
        memory = PEAKS[models.weights.device.type]
        before = memory.start()
        job = make(models, workspace_mb)
        synchronize = torch.cuda.synchronize if models.weights.is_cuda else lambda: None
        synchronize()
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        gradients = job()
        synchronize()
        seconds = time.perf_counter() - start
        own = time.process_time() - own
        self.seconds.append(seconds)
        self.cpu_seconds.append(own)
        self.peak_mb = max(self.peak_mb, (memory.peak() - before) / MB)
        self.loads.append(os.getloadavg()[0])
        self.others.append((busy_seconds() - busy - own) / seconds)
        del gradients


def run_size(
    models: Models,
    variants: list[str],
    workspace_mb: float | None,
    *,
    repetitions: int,
    seconds: float,
    compile_up_to: int,
) -> dict[str, Record]:
    """At least one repetition, and more as long as another one fits into the seconds."""
    end = time.monotonic() + seconds
    records = {name: Record() for name in variants}
    if "torch.compile" in variants:
        records["torch.compile"].note = compiling(models, workspace_mb, compile_up_to)
    last = 0.0
    while len(records["floor"].seconds) < repetitions and (not last or time.monotonic() + last < end):
        start = time.monotonic()
        for name in variants:
            if not records[name].note:
                records[name].measure(VARIANTS[name], models, workspace_mb)
        last = time.monotonic() - start
    return records


def compiling(models: Models, workspace_mb: float | None, up_to: int) -> str:
    """Compile, untimed, and say why not: in words, or not at all."""
    if models.student_hidden.numel() > up_to:
        return f"not tried: more than {up_to} tokens x hidden size (--compile-up-to)"
    try:
        torch._dynamo.reset()
        compiled(models, workspace_mb)()
    except Exception as error:  # whatever a machine without a working compiler raises
        return f"did not compile: {' '.join(str(error).split())[:150]}"
    return ""


def median_ratio(numbers: list[float], least: list[float]) -> float:
    return statistics.median(mine / floor for mine, floor in zip(numbers, least, strict=True))


def rows(records: dict[str, Record], models: Models, common: dict[str, object]) -> list[dict[str, object]]:
    tokens, hidden_size = models.student_hidden.shape
    floors = records["floor"]
    made = []
    for name, record in records.items():
        row: dict[str, object] = {
            **common,
            "vocabulary": models.student_head.shape[0],
            "tokens": tokens,
            "hidden_size": hidden_size,
            "dtype": str(models.student_hidden.dtype).removeprefix("torch."),
            "variant": name,
            "median_s": "",
            "min_s": "",
            "over_floor": "",
            "cpu_s": "",
            "cpu_over_floor": "",
            "peak_mb": "",
            "peak_method": PEAKS[models.weights.device.type].method,
            "repetitions": len(record.seconds),
            "load": "",
            "cores_of_others": "",
            "note": record.note,
        }
        if record.seconds:
            row |= {
                "median_s": f"{statistics.median(record.seconds):.4g}",
                "min_s": f"{min(record.seconds):.4g}",
                "over_floor": f"{median_ratio(record.seconds, floors.seconds):.3f}",
                "cpu_s": f"{statistics.median(record.cpu_seconds):.4g}",
                "cpu_over_floor": f"{median_ratio(record.cpu_seconds, floors.cpu_seconds):.3f}",
                "peak_mb": f"{record.peak_mb:.0f}",
                "load": f"{statistics.median(record.loads):.2f}",
                "cores_of_others": f"{statistics.median(record.others):.2f}",
            }
        made.append(row)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small vocabulary and few tokens")
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, metavar="NxH[:DTYPE]", help="tokens x hidden size"
    )
    parser.add_argument("--vocabulary", type=int, default=QWEN3_VOCABULARY)
    parser.add_argument("--repetitions", type=int, default=5, help="at most, of each size; at least one")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all sizes, larger ones get more")
    parser.add_argument(
        "--workspace-mb", type=float, help="by default weighted_divergence's own: by the head"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument(
        "--compile-up-to", type=int, default=2**20, metavar="NxH", help="larger ones take long"
    )
    parser.add_argument("--out", type=Path, help="the CSV to add to; by default under benchmarks/results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.vocabulary, arguments.workspace_mb = ["64x32"], 2000, 1.0
    variants = list(dict.fromkeys(["floor", *arguments.variants]))
    out = arguments.out or ROOT / "benchmarks/results" / f"divergence-{datetime.date.today()}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)

    # Before a minute is spent: rows of another form would make the file unreadable.
    columns = list(rows({"floor": Record()}, Models.of(1, 1, 1, "cpu"), about("cpu", None))[0])
    if out.exists() and not out.read_text().startswith(",".join(columns) + "\n"):
        parser.error(f"{out} has other columns than this script writes: name another file with --out")

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    sizes = [parse_size(size) for size in arguments.sizes]
    # Small sizes scatter more, and get more than their share of the time.
    unit = arguments.minutes * 60 / sum((n * h) ** 0.5 for n, h, _ in sizes) / len(devices)
    for device in devices:
        for tokens, hidden_size, dtype in sizes:
            models = Models.of(arguments.vocabulary, tokens, hidden_size, device, dtype)
            records = run_size(
                models,
                variants,
                arguments.workspace_mb,
                repetitions=arguments.repetitions,
                seconds=unit * (tokens * hidden_size) ** 0.5,
                compile_up_to=arguments.compile_up_to,
            )
            made = rows(records, models, about(device, arguments.workspace_mb))
            for row in made:
                print(*(f"{key}={row[key]}" for key in PRINTED), flush=True)
            add_rows(out, made)  # after every size: what is measured is kept
    return 0


def parse_size(size: str) -> tuple[int, int, torch.dtype]:
    """256x1024:bfloat16; float32 where no dtype is named."""
    shape, _, dtype = size.partition(":")
    tokens, hidden_size = map(int, shape.split("x"))
    return tokens, hidden_size, getattr(torch, dtype or "float32")


def about(device: str, workspace_mb: float | None) -> dict[str, object]:
    return about_this_run(device) | {"workspace_mb": workspace_mb or "by the head"}


if __name__ == "__main__":
    raise SystemExit(main())
