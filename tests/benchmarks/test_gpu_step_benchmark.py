"""The benchmark of the step on a GPU, run dry on the CPU: all compute the same loss, and the table is whole.
How fast anything was is no test's business."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks.gpu import step
from benchmarks.gpu.step_one import largest
from benchmarks.gpu.step_rows import Table, disagreements, goals
from benchmarks.gpu.step_shapes import REAL, TINY, Batch, done_flop, useful_flop, write_models

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, timeout=280, capture_output=True, text=True
    )


def test_a_dry_run_computes_the_same_losses_and_leaves_a_row_for_each_measure(tmp_path: Path) -> None:
    """Its own seeds are 13 and 14. TRL is not among what CI installs: a variant that can't run is a row too.
    The third loss has two optimizer steps in it."""
    out = tmp_path / "step.csv"
    variants = ["ours", "transformers", "trl gkd"]
    arguments = ["--dry-run", "--commit", "abc123", "--out", str(out), "--variants", *variants]
    done = run("-m", "benchmarks.gpu.step", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader(out.open()))
    measures = ["check", "step", "step", "longest text", "largest batch"]
    for variant in variants[: 3 if importlib.util.find_spec("trl") else 2]:
        mine = [row for row in rows if row["variant"] == variant]
        assert [(row["what"], row["status"]) for row in mine] == [(what, "ok") for what in measures]
        for row in mine:
            assert (
                row["commit"] == "abc123"
                and row["made_of"]
                and row["date"]
                and row["torch"]
                and row["transformers_version"]
            )
        for row in mine[1:3]:
            assert float(row["median_ms"]) > 0 and float(row["tokens_per_s"]) > 0
            assert float(row["share_of_matmul"]) > 0 and int(row["repetitions"]) == 3
        assert [(row["found"], row["bound"]) for row in mine[3:]] == [
            ("40", "not tried beyond"),
            ("4", "not tried beyond"),
        ]
    if not importlib.util.find_spec("trl"):
        (row,) = (row for row in rows if row["variant"] == "trl gkd")
        assert row["what"] == "end" and "No module named 'trl'" in row["status"]
    first = {
        row["variant"]: (float(row["loss_first"]), float(row["loss_third"]))
        for row in rows
        if row["what"] == "check"
    }
    for ours, theirs in zip(first["ours"], first["transformers"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert first["ours"][1] < 0.9 * first["ours"][0]  # the steps were taken
    assert "losses agree" in done.stdout


def test_make_step_hands_the_profiler_one_of_our_steps(tmp_path: Path) -> None:
    """Its own seeds are 13 and 14."""
    script = (
        "import torch; from benchmarks.gpu.step import make_step\n"
        "from benchmarks.gpu.step_shapes import TINY\n"
        "step = make_step(TINY, 3, 12, 'cpu', dtype=torch.float32, packed=True)\n"
        "print([step(), step()])"
    )
    done = run("-c", script)
    assert done.returncode == 0 and done.stdout.endswith("[None, None]\n"), done.stderr


def test_the_real_sizes_are_those_of_the_published_models(test_data: Path) -> None:
    for sizes, name in ((REAL.student, "Qwen3-0.6B"), (REAL.teacher, "Qwen3-1.7B")):
        published = json.loads((test_data / "configs" / f"{name}.json").read_text())
        assert {key: published[key] for key in sizes.config if key != "torch_dtype"} == {
            key: value for key, value in sizes.config.items() if key != "torch_dtype"
        }


def test_the_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Seeds 13 and 14. Eager attention multiplies the upper triangle too, which a causal one leaves out."""
    write_models(TINY, tmp_path, torch.float32, "cpu")
    batch = Batch.of(3, 20, TINY.student.vocab_size)
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, attn_implementation="eager")
        for name in ("student", "teacher")
    )
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            teacher(batch.tokens)
        student(batch.tokens).logits.sum().backward()
    triangle = sum(
        times * s.num_hidden_layers * 3 * 2 * 20**2 * s.num_attention_heads * s.head_dim
        for times, s in ((3, TINY.student), (1, TINY.teacher))
    )
    assert done_flop(TINY, batch, all_logits=True, recompute=False) + triangle == counter.get_total_flops()
    assert done_flop(TINY, batch, all_logits=False, recompute=False) == useful_flop(TINY, batch)
    again = done_flop(TINY, batch, all_logits=False, recompute=True) - useful_flop(TINY, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.model(batch.tokens)
    s = TINY.student
    triangle = s.num_hidden_layers * 3 * 2 * 20**2 * s.num_attention_heads * s.head_dim
    assert again + triangle == counter.get_total_flops()


@pytest.mark.parametrize("seed", range(20))
def test_the_search_finds_the_largest_number_that_fits_to_a_step_or_a_sixteenth(seed: int) -> None:
    draw = random.Random(seed)
    limit, start, fine = draw.randrange(1, 5000), draw.choice([1, 7, 64, 1024]), draw.choice([1, 8, 64])
    tried: list[int] = []

    def fits(number: int) -> str | None:
        tried.append(number)
        return None if number <= limit else "out of memory"

    found, bound = largest(fits, start, 100_000, fine, math.inf)
    assert bound == "out of memory" and len(tried) == len(set(tried)) < 30
    assert found <= limit < found + 2 * max(fine, found / 16)


def test_a_search_stops_at_its_end_and_where_the_next_try_would_take_too_long() -> None:
    assert largest(lambda number: None, 8, 40, 8, math.inf) == (40, "not tried beyond")
    now = [0.0]

    def slow(number: int) -> None:  # by the square: 1, 4, 16, 64 s
        now[0] += (number / 10) ** 2

    assert largest(slow, 10, 1000, 10, until=50.0, clock=lambda: now[0]) == (40, "time")
    assert now[0] == 1 + 4 + 16


def test_a_process_that_is_late_is_ended_and_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "SLACK_S", 0.1)
    (found,) = step.rows_of(replace(step.DRY, variant="transformers", folder="/nowhere", ends=0.0))
    assert (found["variant"], found["what"], found["status"]) == ("transformers", "end", "out of time")


def test_with_little_time_the_first_variants_are_run_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, given = [0.0], {}

    def spend(job: Any) -> list[dict[str, Any]]:
        given[job.variant] = job.ends - now[0]
        now[0] = job.ends
        return []

    monkeypatch.setattr(step.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(step, "rows_of", spend)
    table = Table(tmp_path / "step.csv", "cpu")
    step.run(step.GPU, list("abcdef"), table, minutes=110 / 60)
    assert given == {"a": 40.0, "b": 40.0, "c": pytest.approx(30.0)}
    assert [row["variant"] for row in table.rows if row["status"] == "no time left"] == list("def")
    step.run(step.GPU, list("ab"), table, minutes=10)
    assert given["a"] == given["b"] == pytest.approx(300.0)


def row(variant: str, what: str, **known: Any) -> dict[str, Any]:
    return {"variant": variant, "what": what, "status": "ok", "dtype": "float32", "bound": ""} | known


@pytest.mark.parametrize("loss", ["loss_first", "loss_third"])
def test_a_loss_that_is_not_ours_is_told(loss: str) -> None:
    rows = [row(name, "check", loss_first=0.5, loss_third=0.4) for name in ("ours", "transformers")]
    assert disagreements(rows) == []
    rows[1][loss] *= 1.0003
    assert len(disagreements(rows)) == 1 and loss in disagreements(rows)[0]
    rows[1][loss] = math.nan
    assert len(disagreements(rows)) == 1
    rows[1][loss] = rows[0][loss] * 1.0003
    assert disagreements([one | {"dtype": "bfloat16"} for one in rows]) == []


def test_goals_compare_the_best_of_each_kind() -> None:
    rows = [
        row("ours", "step", length=1024, tokens_per_s="100", share_of_matmul="0.3"),
        row("ours, packed", "step", length=1024, tokens_per_s="160", share_of_matmul="0.4"),
        row("trl gkd", "step", length=1024, tokens_per_s="100", share_of_matmul="0.2"),
        row("trl gkd, liger", "step", length=1024, tokens_per_s="110", share_of_matmul="0.2"),
        row("trl distillation", "step", length=1024, status="out of memory"),
        row("ours", "longest text", found=30_000, bound="time"),
        row("trl gkd", "longest text", found=10_000, bound="out of memory"),
    ]
    assert goals(rows) == [
        "step at 1024: ours, packed over trl gkd, liger 1.45, goal 1.5: not met",
        "step at 1024: ours over trl distillation: not measured",
        "step at 1024: ours at 0.4 of the matmul's rate",
        "longest text: ours over trl gkd 3.00, goal 4.0: not met; ours stopped by time",
        "longest text: ours over trl distillation: not measured",
    ]


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("date,variant\n")
    with pytest.raises(ValueError, match="other columns"):
        Table(tmp_path / "old.csv", "cpu")
    table = Table(tmp_path / "new.csv", "cpu")
    table.add({"variant": "ours", "what": "end"})
    Table(tmp_path / "new.csv", "cpu").add({"variant": "ours", "what": "end"})
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 3
