"""The benchmark of the divergences runs and leaves a whole table; how fast it was is no test's business."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [
    "date",
    "commit",
    "torch",
    "python",
    "device",
    "cpu",
    "threads",
    "workspace_mb",
    "vocabulary",
    "tokens",
    "hidden_size",
    "dtype",
    "variant",
    "median_s",
    "min_s",
    "over_floor",
    "cpu_s",
    "cpu_over_floor",
    "peak_mb",
    "peak_method",
    "repetitions",
    "load",
    "cores_of_others",
    "note",
]


def run_it(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/divergence.py", "--quick", "--repetitions", "2", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=240, capture_output=True, text=True)


def test_a_quick_run_adds_a_row_per_variant_with_what_tells_runs_apart(tmp_path: Path) -> None:
    """Its own seed is 5. torch.compile may fail where there is no compiler, and its row says so then."""
    out = tmp_path / "divergence.csv"
    out.write_text(",".join(COLUMNS) + "\n" + "earlier" + "," * (len(COLUMNS) - 1) + "\n")
    done = run_it(out)
    assert done.returncode == 0, done.stderr

    with out.open(newline="") as file:
        earlier, *rows = csv.DictReader(file)
    assert earlier["date"] == "earlier"
    assert [row["variant"] for row in rows] == ["floor", "ours", "torch", "torch.compile"]
    for row in rows:
        assert list(row) == COLUMNS
        assert all(row[name] for name in ("date", "commit", "torch", "device", "cpu", "threads", "dtype"))
        if not row["note"]:
            assert row["repetitions"] == "2"
            assert all(row[name] for name in ("median_s", "over_floor", "peak_mb", "load", "cores_of_others"))
        else:
            assert row["variant"] == "torch.compile" and "did not compile" in row["note"]


def test_a_file_of_another_form_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "divergence.csv"
    out.write_text("seconds\n1.5\n")
    done = run_it(out)
    assert done.returncode == 2 and "other columns" in done.stderr
    assert out.read_text() == "seconds\n1.5\n"
