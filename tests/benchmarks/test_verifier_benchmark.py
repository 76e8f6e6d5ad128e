"""The benchmark of the verifier runs and leaves a whole table; how fast it was is no test's business."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_leaves_a_row_for_each_load_and_variant_with_what_each_had_right(
    tmp_path: Path, test_data: Path
) -> None:
    out = tmp_path / "results" / "verifier.csv"
    command = [
        sys.executable,
        "benchmarks/verifier.py",
        "--quick",
        "--out",
        str(out),
        "--data",
        str(test_data),
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["load"], row["variant"]) for row in rows] == [
        (load, variant)
        for load in ("mixed", "computed", "pairs")
        for variant in ("exact", "math_verify", "verifier")
    ]
    assert all(value for row in rows for key, value in row.items() if key not in ("right", "cores_of_others"))
    right = {row["variant"]: row["right"] for row in rows if row["load"] == "pairs"}
    assert right["verifier"] == "20/20"
    assert all(share.endswith("/20") for share in right.values())
