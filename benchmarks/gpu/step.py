"""The distillation step of a Qwen3-0.6B-shaped student with a Qwen3-1.7B-shaped teacher (random weights) on
one GPU: ours, the plain loop over transformers, and TRL's trainers, on the same batch.

    python -m benchmarks.gpu.step --minutes 9                # results/gpu-step-DATE.csv
    python -m benchmarks.gpu.step --dry-run --out /tmp/a.csv # tiny, on the CPU, seconds: does it run at all

Each variant has a process of its own; one that fails, or finds no memory, is a row that says so. It first
computes three steps of a small batch, whose losses have to be those of the others: what is timed is the same
thing. Then come the steps, the longest text that fits, and the largest batch. benchmarks/README.md says what
the variants do and what the columns mean. The goals are printed at the end; the exit code is 1 where losses
differ.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.step_one import SIGN, VARIANTS, Job
from benchmarks.gpu.step_rows import Table, disagreements, goals
from benchmarks.gpu.step_shapes import REAL, TINY, room, write_models

ROOT = Path(__file__).resolve().parents[2]
LEAST_S = 20.0  # under which no variant is begun: importing and reading take that long
ENOUGH_S = 40.0  # that the first ones have in any case: with little time, few variants and not none
SLACK_S = 15.0  # that a process may be late, before it is ended
SHOWN = (
    "variant",
    "what",
    "status",
    "batch",
    "length",
    "median_ms",
    "tokens_per_s",
    "share_of_matmul",
    "peak_mb",
)

GPU = Job(
    variant="",
    folder="",
    device="cuda",
    dtype="bfloat16",
    dry_run=False,
    measures=[],
    lengths=[],
    tokens=8192,
    ends=0.0,
    repetitions=30,
    lr=1e-4,
    first_text=8192,
    most_text=163_840,  # 13,400 TFLOP, since attention goes with the square
    text_step=1024,
    batch_length=1024,
    first_batch=8,
    most_batch=1024,
    matmul=8192,
)
DRY = replace(
    GPU,
    device="cpu",
    dtype="float32",
    dry_run=True,
    tokens=48,
    repetitions=3,
    lr=1e-3,
    first_text=8,
    most_text=40,
    text_step=8,
    batch_length=8,
    first_batch=1,
    most_batch=4,
    matmul=128,
)


def make_step(*shapes: Any, **settings: Any) -> Callable[[], None]:
    """One of our steps, for a profiler: see `step_ours.make_step`, which takes seconds to import."""
    from benchmarks.gpu.step_ours import make_step

    return make_step(*shapes, **settings)


def rows_of(job: Job) -> Iterator[dict[str, Any]]:
    """What a variant's process finds, as it finds it; and how it ended, where that wasn't as it should."""
    command = [sys.executable, "-m", "benchmarks.gpu.step_one", job.line]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        late = threading.Event()

        def end_it(process: subprocess.Popen[str] = process, late: threading.Event = late) -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(0.0, job.ends - time.monotonic()) + SLACK_S, end_it)
        timer.start()
        for line in process.stdout:
            if line.startswith(SIGN):
                yield json.loads(line.removeprefix(SIGN))
        code = process.wait()
        timer.cancel()
        if code:
            errors.seek(0)
            said = [line.strip() for line in errors.read().splitlines() if line.strip()]
            why = "out of time" if late.is_set() else (said or [f"exit code {code}"])[-1][:200]
            yield {"variant": job.variant, "what": "end", "status": why, "dtype": job.dtype}


def run(job: Job, variants: list[str], table: Table, minutes: float) -> None:
    """All variants, in turn; each has an equal share of the time that is left, or ENOUGH_S of it."""
    end = time.monotonic() + 60 * minutes
    for number, variant in enumerate(variants):
        left = end - time.monotonic()
        share = min(left, max(left / (len(variants) - number), ENOUGH_S))
        if share < LEAST_S and not job.dry_run:
            rows = iter([{"variant": variant, "what": "end", "status": "no time left", "dtype": job.dtype}])
        else:
            rows = rows_of(replace(job, variant=variant, ends=time.monotonic() + share))
        for row in rows:
            table.add(row)
            found = [f"found {row['found']} ({row['bound']})"] if row.get("bound") else []
            losses = [f"{key} {row[key]}" for key in ("loss_first", "loss_third") if row.get(key)]
            known = [f"{key} {row[key]}" for key in SHOWN if row.get(key)]
            print("  ".join([*known, *losses, *found]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/gpu-step-{today}.csv")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all variants together")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of each text of a step")
    parser.add_argument("--tokens", type=int, help="of a step's batch")
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=["step", "text", "batch"],
        help="steps, the longest text, the largest batch; of every variant, else what is worth it",
    )
    parser.add_argument("--commit", help="for the column, where the machine has no git repository")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU, in float32")
    options = parser.parse_args()
    job = DRY if options.dry_run else GPU
    if job.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry-run runs it on the CPU")
    if options.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    job = replace(
        job,
        lengths=options.lengths or ([12, 24] if options.dry_run else [1024, 4096]),
        tokens=options.tokens or job.tokens,
        measures=options.measures or [],
    )
    try:
        table = Table(options.out, job.device, options.commit)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(dir=room(8 * 2**30)) as folder:
        pair = TINY if options.dry_run else REAL
        write_models(pair, Path(folder), getattr(torch, job.dtype), job.device)
        if job.device == "cuda":
            torch.cuda.empty_cache()  # the variants' processes get the whole card, but for this one's context
        try:
            run(replace(job, folder=folder), options.variants, table, options.minutes)
        except KeyboardInterrupt:  # tools/gpu/session.sh, whose time is over
            print("interrupted: what was found before follows", flush=True)
    if options.dry_run:
        print("a dry run: nothing follows from its times")
    print("\n".join(goals(table.rows)))
    differing = disagreements(table.rows)
    print("\n".join(differing) or "losses agree")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
