"""The benchmark of the estimators runs and leaves a whole table."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark_runs import run_benchmark, table


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
    run_benchmark("estimators.py", "--quick", "--rates", rates, "--out", out)
    rows = table(out)
    assert len(rows) == 4 * 4 * 3  # problems, ways, numbers of attempts
    assert {row["problems"] for row in rows} == {"uniform", "Beta(.3, .3)", "Beta(.3, .6)", "recorded"}
    for row in rows:
        assert 0 < float(row["mse"]) < 0.03 and 0 < float(row["efficiency"]) <= 1
