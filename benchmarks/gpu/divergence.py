"""The divergence on one GPU: over its matmul floor, beside plain torch, torch.compile, Liger-Kernel and TRL.

    python -m benchmarks.gpu.divergence --out FILE --minutes 8     # on a GPU, from the repository's root
    python -m benchmarks.gpu.divergence --out FILE --dry-run       # on a CPU: does it run at all

Variants take turns, repetition by repetition, and each row has its gradient's error against float64. The goal
sizes come first; a size's rows are added to FILE when it is done. `benchmarks/README.md` says what variants
and columns are. Exit code 0 whether the goals are met or not; 1 where the device was lost on the way; 2 for
wrong arguments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import time
from pathlib import Path

import torch

from benchmarks.gpu import roofline
from benchmarks.gpu.clock import Clock, matmul_rate
from benchmarks.gpu.divergence_goals import verdicts
from benchmarks.gpu.divergence_record import Record, measure_size, rows
from benchmarks.gpu.divergence_variants import CASES, NO_DIVERGENCE, VARIANTS
from benchmarks.gpu.roofline import VOCABULARY, Size
from benchmarks.machine import about_this_run, add_rows

SIZES = ["8192x1024", "8192x4096", "8192x1024/2048", "4096x1024", "4096x4096"]
SIZES += ["16384x1024", "16384x4096", "1024x1024", "1024x4096"]
DRY_SIZES = ["96x16", "64x16/24"]
DRY_VOCABULARY = 1000
FIRST_COSTS = 4.0
"""more than a later size, in `_cost`'s unit: libraries are imported and kernels compiled"""
PRINTED = ["variant", "divergence", "median_ms", "over_floor", "share_of_matmul_peak", "peak_mb"]
PRINTED += ["grad_rel_error", "grad_rel_error_close", "note"]


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    dry = arguments.dry_run
    if not dry and not torch.cuda.is_available():
        parser.error("there is no GPU here: --dry-run runs the same code on the CPU with tiny sizes")
    try:
        vocabulary = DRY_VOCABULARY if dry else arguments.vocabulary
        texts = arguments.sizes or (DRY_SIZES if dry else SIZES)
        sizes = [Size.parse(size, vocabulary) for size in texts]
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    cases = [case for case in CASES if case.variant in {"floor", *(arguments.variants or VARIANTS)}]

    clock = Clock("cpu" if dry else "cuda")
    about = _about(clock, arguments.commit)
    columns = ",".join(rows([Record(cases[0])], sizes[0], about, 1.0)[0])
    if arguments.out.exists() and not arguments.out.read_text().startswith(columns + "\n"):
        parser.error(f"{arguments.out} has other columns than this script writes: name another with --out")

    end = time.monotonic() + 60 * arguments.minutes
    peak = matmul_rate(clock, 128 if dry else 8192)
    print(f"{about['device']}: bf16 matmul peak of this run {peak / 1e12:.4g} TFLOP/s", flush=True)
    made, lost = [], False
    costs = [_cost(size) + (number == 0) * FIRST_COSTS for number, size in enumerate(sizes)]
    for number, size in enumerate(sizes):
        now = time.monotonic()
        if now > end:
            print(f"{size}: not measured, the {arguments.minutes:g} minutes were spent", flush=True)
            continue
        try:
            records, lost = measure_size(
                size,
                cases,
                clock,
                dtype=torch.bfloat16,
                checked_tokens=16 if dry else 256,
                repetitions=2 if dry else arguments.repetitions,
                least=2 if dry else 3,
                until=now + (end - now) * costs[number] / sum(costs[number:]),
            )
        except KeyboardInterrupt:  # tools/gpu/session.sh, whose time is over
            print(f"{size}: interrupted, and not measured", flush=True)
            break
        of_size = rows(records, size, about, peak)
        add_rows(arguments.out, of_size)  # at once: what is measured is kept
        made += of_size
        _show(size, of_size)
        if lost:
            print("the device was lost; the sizes that follow were not measured", flush=True)
            break
    print(roofline.table(sizes))
    print("\ngoals (issue 13)" + (", of a dry run on a CPU, which say nothing:" if dry else ":"))
    print("\n".join(verdicts(made)), flush=True)
    return 1 if lost else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV to add to")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sizes")
    parser.add_argument(
        "--sizes", nargs="+", metavar="NxH[/H_t]", help="tokens x hidden size / the teacher's"
    )
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="the floor is always measured")
    parser.add_argument("--repetitions", type=int, default=20, help="at most, of each size; at least three")
    parser.add_argument("--commit", help="for the column, where the machine has no git repository")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny sizes, wall-clock time")
    return parser


def _cost(size: Size) -> float:
    """A size's share of the time: half of it alike (models, compiling), half by its products."""
    return 1.0 + size.flops / Size(8192, 4096, 4096).flops


def _about(clock: Clock, commit: str | None) -> dict[str, object]:
    run = about_this_run(clock.device)
    return {
        "date": run["date"],
        "commit": commit or run["commit"],
        "device": run["device"] if clock.on_gpu else run["cpu"],
        "driver": _driver() if clock.on_gpu else "none",
        "torch": run["torch"],
        "triton": _version("triton"),
        "liger": _version("liger-kernel"),
        "trl": _version("trl"),
        "timing": clock.method,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def _show(size: Size, of_size: list[dict[str, str]]) -> None:
    print(f"\n{size}, V = {size.vocabulary}")
    for row in of_size:
        name = row["variant"] + ("" if row["divergence"] == NO_DIVERGENCE else f" {row['divergence']}")
        numbers = (f"{key}={row[key]}" for key in PRINTED[2:] if row[key])
        print(f"  {name:36}", *numbers, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
