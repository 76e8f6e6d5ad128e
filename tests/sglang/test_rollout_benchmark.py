"""The benchmark of rollouts runs and leaves a whole table; how fast anything was is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_runs import ABOUT_THE_RUN, run_benchmark, table

COLUMNS = [
    *ABOUT_THE_RUN,
    "sglang",
    "requests",
    "max_new_tokens",
    "concurrency",
    "variant",
    "tokens_per_s",
    "min_tokens_per_s",
    "max_tokens_per_s",
    "over_faster_bare",
    "median_of_ratios",
    "cpu_s_per_1000_tokens",
    "server_cpu_s_per_1000_tokens",
    "tokens",
    "repetitions",
    "load",
    "cores_of_others",
]


def check_table(path: Path) -> None:
    rows = table(path)
    assert [row["variant"] for row in rows] == ["singles", "batches", "ours", "embedded"]
    assert all(list(row) == COLUMNS and all(row.values()) for row in rows)
    # Nearly all texts go on to the limit: a variant that leaves requests out has half of the tokens, or less.
    tokens = [int(row["tokens"]) for row in rows]
    full = int(rows[0]["requests"]) * int(rows[0]["max_new_tokens"])
    assert all(0.9 * full < count <= full for count in tokens), tokens
    assert max(float(row["over_faster_bare"]) for row in rows[:2]) == 1.0


@pytest.mark.sglang
@pytest.mark.timeout(300)
def test_a_quick_run_on_a_real_server_writes_a_row_per_variant(tiny_server, tmp_path):
    out = tmp_path / "rollout.csv"
    server = ("--url", tiny_server.url, "--model", tiny_server.folder)
    run_benchmark("rollout.py", "--quick", "--out", out, *server)
    check_table(out)
