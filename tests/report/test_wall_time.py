"""Where the time went, what each step did beside its loss, and what other tasks say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import paced_megatron
from hand_made_runs import lines, write_experiment, write_run
from paced_megatron.errors import UserError
from paced_megatron.report import write_report
from paced_megatron.report.wording import PHASE_NAMES
from paced_megatron.report.write import read_content


def on_policy(folder: Path) -> Path:
    """Give the run's steps what an on-policy stage's have: parts of their time, at times a pass rate."""
    path = folder / "stage-1" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record |= {"timing_s": {"teacher": 0.125, "sync": 0.25, "rollout": 2.0}, "tokens_kept": 0.5}
        record["rollout"] = {"pass_rate": 0.25 * record["step"]} if record["step"] != 2 else {}
    lines(path, records)
    return folder


def test_seconds_are_summed_by_phase_and_shared_out(run_report: Any):
    [found] = run_report.content["time"]
    seconds = {each["phase"]: each["seconds"] for each in found["phases"]}
    assert seconds == {"attempts": 2.0, "responses": 1.0, "evaluation": 0.75, "training": 1.5}
    assert found["seconds"] == 5.25
    assert {each["phase"]: each["share"] for each in found["phases"]}["training"] == pytest.approx(1.5 / 5.25)


def test_every_phase_that_is_timed_has_a_name():
    phases = Path(paced_megatron.__file__).parent / "phases"
    timed = {"attempts", "responses", "rollouts", "evaluation", "strata", "attempts_after"}
    source = "".join(path.read_text() for path in phases.glob("*.py"))
    assert all(f'phase="{name}"' in source for name in timed)
    assert timed < set(PHASE_NAMES)


def test_within_a_step_only_what_lies_within_it_is_counted(tmp_path: Path):
    [found] = read_content(on_policy(write_run(tmp_path / "run")))["time"]
    assert found["step"] == [{"stage": 1, "part": "teacher", "seconds": 0.375}]
    assert {each["phase"]: each["seconds"] for each in found["phases"]}["sync"] == 0.75


def test_steps_have_their_gradient_norm_learning_rate_and_pass_rate_where_there_is_one(tmp_path: Path):
    folder = on_policy(write_run(tmp_path / "run"))
    html = write_report(folder).read_text()
    curves = {each["name"]: each["arms"][0]["mean"] for each in read_content(folder)["steps"]}
    assert curves == {
        "grad_norm": [[1, 1.0], [2, 1.0], [3, 1.0]],
        "lr": [[1, 0.001], [2, 0.001], [3, 0.001]],
        "tokens_kept": [[1, 0.5], [2, 0.5], [3, 0.5]],
        "pass_rate": [[1, 0.25], [3, 0.75]],
    }
    rows = list(csv.DictReader((folder / "report" / "steps.csv").open()))
    assert [float(row["value"]) for row in rows if row["number"] == "pass_rate"] == [0.25, 0.75]
    assert "pass rate of the step" in html and "share of response tokens trained on" in html


def test_a_number_that_no_step_has_has_no_panel(run_report: Any):
    assert [each["name"] for each in run_report.content["steps"]] == ["grad_norm", "lr"]
    assert "pass rate of the step" not in run_report.html


def forgetting_json(after: float = 0.45, interval: tuple[float, float] | None = (0.01, 0.09)) -> str:
    """As evaluation/forgotten.py writes it, as far as it is read."""
    rows = [
        {"stage": 1, "step": step, "task": "mmlu", "metric": "acc", "value": value, "standard_error": error}
        for step, value, error in ((0, 0.5, 0.01), (3, after, 0.02))
    ]
    lost = {"task": "mmlu", "metric": "acc", "before": 0.5, "after": after, "forgotten": 0.5 - after}
    lost |= {"standard_error": 0.02, "interval": interval, "documents": 400, "paired": True}
    return json.dumps({"rows": rows[::-1], "forgotten": [lost]})


def test_other_tasks_are_shown_before_and_after_where_the_run_has_them(tmp_path: Path, run_report: Any):
    folder = write_run(tmp_path / "run")
    (folder / "forgetting.json").write_text(forgetting_json())
    html = write_report(folder).read_text()
    [found] = read_content(folder)["forgetting"]
    assert (found["task"], found["metric"], found["documents"]) == ("mmlu", "acc", 400)
    assert found["forgotten"] == {"mean": pytest.approx(0.05), "low": 0.01, "high": 0.09, "n": 400}
    assert found["after"]["low"] == pytest.approx(0.45 - 1.96 * 0.02, abs=1e-6)
    for text in (
        "what was forgotten",
        ">0.500<",
        ">0.450<",
        ">+0.050<",
        "0.480 to 0.520",
        "+0.010 to +0.090",
    ):
        assert text in html
    rows = list(csv.DictReader((folder / "report" / "forgetting.csv").open()))
    assert [float(row["mean"]) for row in rows] == pytest.approx([0.5, 0.45, 0.05])
    assert "what was forgotten" not in run_report.html and run_report.content["forgetting"] == []


def test_over_seeds_what_was_forgotten_has_an_interval_in_pairs(tmp_path: Path):
    folder = write_experiment(tmp_path / "x", {"one": {}}, (1, 2))
    for seed, lost in ((1, 0.1), (2, 0.2)):
        text = forgetting_json(0.5 - lost, None)
        (folder / "arms" / "one" / f"seed-{seed}" / "forgetting.json").write_text(text)
    [found] = read_content(folder)["forgetting"]
    assert found["forgotten"]["mean"] == pytest.approx(0.15)
    assert found["forgotten"]["low"] == pytest.approx(0.15 - 12.706 * 0.05, abs=1e-3)


@pytest.mark.parametrize("text", ["{", '{"rows": [], "forgotten": [{"task": "x"}]}', "[]"])
def test_a_file_that_says_nothing_of_other_tasks_is_named(tmp_path: Path, text: str):
    folder = write_run(tmp_path / "run")
    (folder / "forgetting.json").write_text(text)
    with pytest.raises(UserError, match=r"forgetting\.json: not what lm-eval's tasks said .*remove it"):
        write_report(folder)
