"""Where the time of one divergence and of one distillation step goes, by torch's profiler.

    python -m benchmarks.gpu.profile --out FOLDER                # on a GPU, from the repository's root
    python -m benchmarks.gpu.profile --out FOLDER --dry-run      # tiny, on a CPU: does it run at all

For each: NAME.txt, kernels by time, the products' share of it, and how often the host waited for the device;
and NAME.trace.json.gz for chrome://tracing or Perfetto, kept where it is under 16 MiB. The step is
`benchmarks.gpu.step`'s make_step, or --step MODULE:FUNCTION, which returns a callable of one step. Exit code
1 where one of them failed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.divergence_variants import Models
from benchmarks.gpu.divergence_variants import our_kernels
from benchmarks.gpu.roofline import VOCABULARY, Size
from benchmarks.gpu.trace import Region
from benchmarks.machine import about_this_run

REGION = "measured"
WARM_UPS = 3
MOST_BYTES = 16 * 2**20
"""of a file that comes back from the machine that is lent here"""
STEP = "benchmarks.gpu.step:make_step"

Job = Callable[[], Any]


def profiled(name: str, job: Job, out: Path, device: str) -> str:
    """Profiles one call after WARM_UPS; writes NAME.txt and the trace into out, and returns the text."""
    for _ in range(WARM_UPS):
        job()
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        with record_function(REGION):
            job()
        synchronize()  # after the region: this wait is not the job's
        milliseconds = 1000 * (time.perf_counter() - start)
    trace = out / f"{name}.trace.json.gz"
    profiler.export_chrome_trace(str(trace))
    with gzip.open(trace) as file:
        region = Region.of(json.load(file)["traceEvents"], REGION)
    about = about_this_run(device)
    lines = [
        f"{name}: {about['device']}, commit {about['commit']}, torch {about['torch']}, {about['date']}",
        f"by the host's clock, profiled: {milliseconds:.2f} ms",
        region.table(),
    ]
    size = trace.stat().st_size
    if size > MOST_BYTES:
        trace.unlink()
        lines.append(f"the trace had {size / 2**20:.0f} MiB and was not kept")
    text = "\n".join(lines)
    (out / f"{name}.txt").write_text(text + "\n")
    return text


def divergence_job(size: Size, device: str) -> Job:
    """Forward KL with both gradients, as `ours` in gpu/divergence.py."""
    wider_by = size.teacher - size.student
    models = Models.of(size.vocabulary, size.tokens, size.student, device, torch.bfloat16, wider_by=wider_by)
    return our_kernels("auto")(models, "forward_kl")


def step_job(make: str, dry: bool) -> Job:
    """make: MODULE:FUNCTION. Called without arguments; the default's dry run has tiny models in float32."""
    module, _, function = make.partition(":")
    made = getattr(importlib.import_module(module), function)
    if dry and make == STEP:
        from benchmarks.gpu.step_shapes import TINY

        return made(TINY, 2, 8, "cpu", dtype=torch.float32)
    return made()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder, made where it is not there")
    parser.add_argument("--size", default="8192x1024", metavar="NxH[/H_t]", help="of the divergence")
    parser.add_argument(
        "--step", default=STEP, metavar="MODULE:FUNCTION", help="makes a callable of one step"
    )
    parser.add_argument("--only", choices=["divergence", "step"])
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny sizes")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    if not dry and not torch.cuda.is_available():
        parser.error("there is no GPU here: --dry-run runs the same code on the CPU with tiny sizes")
    device = "cpu" if dry else "cuda"
    size = Size(96, 16, 24, 1000) if dry else Size.parse(arguments.size, VOCABULARY)
    makers: dict[str, Callable[[], Job]] = {
        "divergence": lambda: divergence_job(size, device),
        "step": lambda: step_job(arguments.step, dry),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, make in makers.items():
        if arguments.only not in (None, name):
            continue
        try:
            print(profiled(name, make(), arguments.out, device), end="\n\n", flush=True)
        except ModuleNotFoundError as error:
            print(f"{name}: not profiled, {error.name} is not installed or not there", flush=True)
        except Exception as error:  # one that fails leaves the other its minutes
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
