"""The benchmark of the estimators runs and leaves a whole table."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_writes_a_row_for_every_way_and_number_of_attempts(tmp_path: Path) -> None:
    """Its seeds are 0 and 1."""
    rates, out = tmp_path / "pass_rates.jsonl", tmp_path / "estimators.csv"
    rates.write_text(
        "".join(
            json.dumps(
                {
                    "problem_id": f"p{k}",
                    "correct": k,
                    "attempts": 16,
                    "pass_rate": k / 16,
                    "on_frontier": 0 < k < 16,
                }
            )
            + "\n"
            for k in range(17)
        )
    )
    command = [
        sys.executable,
        "benchmarks/estimators.py",
        "--quick",
        "--rates",
        str(rates),
        "--out",
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=240)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 * 3  # problems, ways, numbers of attempts
    assert {row["problems"] for row in rows} == {"uniform", "Beta(.3, .3)", "Beta(.3, .6)", "recorded"}
    for row in rows:
        assert 0 < float(row["mse"]) < 0.03 and 0 < float(row["efficiency"]) <= 1
