"""Scripts of benchmarks/ started as a user starts them, and the tables they leave."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 240
# What every table begins with: what tells one run of a benchmark from another.
ABOUT_THE_RUN = ["date", "commit", "torch", "python", "device", "cpu", "threads"]


def run_benchmark(
    script: str, *arguments: object, check: bool = True, timeout: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """A script of benchmarks/ with these arguments, on the CPU and one thread, and what it printed.

    Args:
        script: its name, as "step.py".
        check: whether an exit code other than 0 fails the test, with what the script said.
        timeout: seconds.
    """
    command = [sys.executable, f"benchmarks/{script}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
