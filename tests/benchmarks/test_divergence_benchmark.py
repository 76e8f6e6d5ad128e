"""The benchmark of the divergences runs and leaves a whole table; how fast it was is no test's business."""

from __future__ import annotations

from pathlib import Path

from benchmark_runs import ABOUT_THE_RUN, run_benchmark, table

COLUMNS = [
    *ABOUT_THE_RUN,
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


QUICK = ("--quick", "--repetitions", 2, "--out")


def test_a_quick_run_adds_a_row_per_variant_with_what_tells_runs_apart(tmp_path: Path) -> None:
    """Its own seed is 5. torch.compile may fail where there is no compiler, and its row says so then."""
    out = tmp_path / "divergence.csv"
    out.write_text(",".join(COLUMNS) + "\n" + "earlier" + "," * (len(COLUMNS) - 1) + "\n")
    run_benchmark("divergence.py", *QUICK, out)

    earlier, *rows = table(out)
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
    done = run_benchmark("divergence.py", *QUICK, out, check=False)
    assert done.returncode == 2 and "other columns" in done.stderr
    assert out.read_text() == "seconds\n1.5\n"
