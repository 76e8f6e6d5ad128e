"""The benchmark of the converter runs and leaves a whole table; how fast it was is no test's business. How
much memory a conversion takes is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark_runs import ABOUT_THE_RUN, ROOT, run_benchmark, table

MB = 2**20
COLUMNS = [
    *ABOUT_THE_RUN,
    "hidden_size",
    "layers",
    "vocabulary",
    "mb",
    "variant",
    "median_s",
    "min_s",
    "over_cp",
    "over_cp_synced",
    "cpu_s",
    "peak_mb",
    "peak_anon_mb",
    "repetitions",
    "load",
    "cores_of_others",
]


def test_a_quick_run_writes_a_row_per_variant_with_what_tells_runs_apart(tmp_path: Path) -> None:
    """Its own seed is 7."""
    out = tmp_path / "converter.csv"
    run_benchmark("converter.py", "--quick", "--repetitions", 1, "--folder", tmp_path, "--out", out)
    rows = table(out)
    assert [row["variant"] for row in rows] == ["cp", "cp_synced", "to_megatron", "to_hf"]
    for row in rows:
        assert list(row) == COLUMNS
        measured = {name: value for name, value in row.items() if value}
        converts = row["variant"].startswith("to_")
        assert measured.keys() == set(COLUMNS) - (set() if converts else {"cpu_s", "peak_mb", "peak_anon_mb"})


def test_a_conversion_holds_a_layer_or_two_and_not_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 layers of 5.2 MB (124 MB in all): the model twice would be 248 MB, once would be 124."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from converter import make_source, size_of

    make_source(tmp_path / "source", hidden=512, layers=24, vocabulary=1000, shard_mb=20)
    total = size_of(tmp_path / "source")
    assert total > 100 * MB
    for direction, given, out in (
        ("to_megatron", "source", "checkpoint"),
        ("to_hf", "checkpoint", "back"),
    ):
        done = run_benchmark("converter.py", "--child", direction, tmp_path / given, tmp_path / out)
        peak = json.loads(done.stdout.splitlines()[-1])
        assert peak["anonymous"] < total / 3, (direction, peak, total)
        assert peak["peak"] < total / 2, (direction, peak, total)
