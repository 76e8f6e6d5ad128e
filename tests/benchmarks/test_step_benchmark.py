"""The benchmark of the step runs and leaves a whole table; how fast it was is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_runs import run_benchmark, table


@pytest.mark.parallel
def test_a_quick_run_adds_a_row_per_layout_and_variant(tmp_path: Path) -> None:
    """Its own seeds are 1 to 3. Ratios are of the rows' own numbers: bare over bare is 1."""
    out = tmp_path / "step.csv"
    run_benchmark("step.py", "--quick", "--out", out, timeout=280)
    rows = table(out)
    assert [(row["layout"], row["variant"]) for row in rows] == [
        (layout, variant) for layout in ("1", "TP 2") for variant in ("bare", "ours", "half")
    ]
    for row in rows:
        assert row["commit"] and row["date"] and row["cpu"] and float(row["load"]) >= 0
        assert 0 < float(row["loss_s"]) < float(row["median_s"])
        assert float(row["over_bare"]) > 0 and int(row["repetitions"]) >= 3
        assert row["variant"] != "bare" or float(row["over_bare"]) == 1
