"""The benchmark of the verifier runs and leaves a whole table; how fast it was is no test's business."""

from __future__ import annotations

from pathlib import Path

from benchmark_runs import run_benchmark, table


def test_a_quick_run_leaves_a_row_for_each_load_and_variant_with_what_each_had_right(
    tmp_path: Path, test_data: Path
) -> None:
    out = tmp_path / "results" / "verifier.csv"
    run_benchmark("verifier.py", "--quick", "--out", out, "--data", test_data)
    rows = table(out)
    assert [(row["load"], row["variant"]) for row in rows] == [
        (load, variant)
        for load in ("mixed", "computed", "pairs")
        for variant in ("exact", "math_verify", "verifier")
    ]
    assert all(value for row in rows for key, value in row.items() if key not in ("right", "cores_of_others"))
    right = {row["variant"]: row["right"] for row in rows if row["load"] == "pairs"}
    assert right["verifier"] == "20/20"
    assert all(share.endswith("/20") for share in right.values())
