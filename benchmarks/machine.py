"""What is known of the machine that a benchmark runs on: its name, how busy it is, the most memory in use."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Peak:
    """start() -> bytes in use; peak() -> the most that was in use since."""

    method: str
    start: Callable[[], int]
    peak: Callable[[], int]


def _start_host_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark back to what is in use now
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _start_device_peak() -> int:
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


PEAKS = {
    "cpu": Peak("VmHWM - VmRSS before", _start_host_peak, lambda: _status_bytes("VmHWM")),
    "cuda": Peak("torch.cuda.max_memory_allocated", _start_device_peak, torch.cuda.max_memory_allocated),
}


def busy_seconds() -> float:
    """Processor seconds that anybody has used on this machine, with those the hypervisor took."""
    user, nice, system, _idle, _wait, irq, soft, steal = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, soft, steal))) / os.sysconf("SC_CLK_TCK")


def about_this_run(device: str) -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str:
    """Of the repository; `+changes` where what is timed is not as committed."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on a machine that is lent
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "paced_megatron", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def cpu_model() -> str:
    """The name, and what tells two machines apart whose name is cut short: family and model."""
    text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    known = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}
    name, family, model = (known.get(key) for key in ("model name", "cpu family", "model"))
    return f"{name or platform.machine()} (family {family}, model {model})"


def add_rows(out: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """At the end of a CSV, which is begun where there is none. What was measured before stays."""
    begun = out.exists()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerows(rows)
