"""Where a distillation step's time goes on a GPU, and where the host waits for it: torch's profiler over some
steps of the benchmark's (benchmarks/gpu/step.py), as text.

    python tools/gpu/profile_step.py --out profile.txt
    python tools/gpu/profile_step.py --out profile.txt --dry-run    # on the CPU, tiny
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
# What makes the host wait for the device: `.item()`, `.tolist()` and `int(tensor)` end in the first, boolean
# indexing and nonzero in the second.
WAITING = ("aten::_local_scalar_dense", "aten::nonzero")
# ... and what CUDA calls it. A copy to the host waits too, unless into pinned memory.
CUDA_WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
FROM_DEVICE = "Memcpy DtoH"


def summary(events: Iterable[Any], steps: int) -> Iterator[str]:
    """Lines on what the profiler's events (`profile.events()`) say of waiting, per step."""
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for event in events:
        named = event.name.startswith(FROM_DEVICE)
        if named or event.name in WAITING or event.name in CUDA_WAITING:
            counts[FROM_DEVICE if named else event.name] += 1
        if event.name in WAITING:
            ours = [frame for frame in event.stack or () if "paced_megatron" in frame]
            places[f"{event.name}: {ours[0] if ours else 'not from paced_megatron'}"] += 1
    yield f"calls that wait for the device, in each of {steps} steps:"
    for name in (*WAITING, *CUDA_WAITING, FROM_DEVICE):
        yield f"  {counts[name] / steps:8.1f}  {name}"
    yield "from where:"
    for place, count in places.most_common(20):
        yield f"  {count / steps:8.1f}  {place}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the text")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.dry_run
    if not on_gpu and not options.dry_run:
        parser.error("torch sees no GPU here; --dry-run runs it on the CPU")
    sys.path.insert(0, str(ROOT))
    benchmark = importlib.import_module("benchmarks.gpu.step")
    shapes = importlib.import_module("benchmarks.gpu.step_shapes")
    shape = (shapes.REAL, options.batch, options.length, "cuda") if on_gpu else (shapes.TINY, 2, 12, "cpu")
    step = benchmark.make_step(*shape, dtype=torch.bfloat16)
    for _ in range(3):  # kernels are compiled, handles made
        step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    began = time.monotonic()
    with profile(activities=activities, with_stack=True) as profiler:
        for _ in range(STEPS):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    seconds = (time.monotonic() - began) / STEPS
    by_time = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    lines = [
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if on_gpu else 'CPU, a dry run'}, "
        f"{shape[1]} texts of {shape[2]} tokens, {seconds * 1000:.1f} ms a step under the profiler",
        *summary(profiler.events(), STEPS),
        f"by {by_time}, over {STEPS} steps:",
        profiler.key_averages().table(sort_by=by_time, row_limit=40, max_name_column_width=70),
    ]
    if on_gpu:
        lines.insert(1, f"peak memory {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:12]))
    print(f"the rest: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
