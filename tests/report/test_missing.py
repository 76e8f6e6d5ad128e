"""A report of what is missing: a line that names the file and the verb that makes it; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hand_made_runs import config_dict, lines, write_experiment, write_run
from paced_megatron.cli import main
from paced_megatron.errors import UserError
from paced_megatron.report import write_report
from paced_megatron.run_folder import StageFolder
from paced_megatron.training.budget import Spent, write_ended


def complaint(folder: Path) -> str:
    """What the report of the folder ends with; it must not have written anything."""
    with pytest.raises(UserError) as caught:
        write_report(folder)
    assert not (folder / "report.html").exists()
    assert not (folder / "report").exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("file", "verb"),
    [
        ("stage-1/pass_rates.jsonl", "paced weigh"),
        ("stage-1/metrics.jsonl", "paced train"),
        ("evaluation.json", "paced evaluate"),
        ("stage-1/evaluation/step-0000003/test-sampled.jsonl", "paced run"),
        ("strata.jsonl", "paced run"),
        ("stage-1/pass_rates_after.jsonl", "paced evaluate"),
    ],
)
def test_a_missing_file_is_named_with_the_verb_that_makes_it(tmp_path: Path, file: str, verb: str):
    folder = write_run(tmp_path / "run")
    (folder / file).unlink()
    text = complaint(folder)
    assert file in text
    assert "is missing" in text
    assert f"`{verb} CONFIG" in text


def test_an_empty_file_of_a_measurement_is_told_as_a_missing_one_is(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    file = "stage-1/evaluation/step-0000003/test-sampled.jsonl"
    (folder / file).write_text("")
    text = complaint(folder)
    assert f"{file} is empty" in text and "`paced run CONFIG" in text


def test_the_command_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "run")
    (folder / "stage-1" / "metrics.jsonl").unlink()
    assert main(["report", str(folder)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "metrics.jsonl is missing" in shown


def test_where_checkpoints_are_there_lost_metrics_come_back_only_without_them(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "stage-1" / "metrics.jsonl").unlink()
    (folder / "stage-1" / "checkpoints").mkdir()
    assert "move" in complaint(folder)
    assert "checkpoints away too" in complaint(folder)


def test_a_run_that_is_still_training_says_how_far_it_is(tmp_path: Path):
    folder = write_run(tmp_path / "run", losses=(0.5, 0.25))
    assert "ends at step 2 of 3: training has not ended; `paced train CONFIG` goes on" in complaint(folder)


def test_a_step_that_was_lost_from_the_middle_is_missed(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    metrics = folder / "stage-1" / "metrics.jsonl"
    first, _, last = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(first + last)
    assert "has 2 of 3 steps" in complaint(folder)


def test_a_run_without_its_last_evaluation_is_not_finished(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    rows = json.loads((folder / "evaluation.json").read_text())["rows"]
    (folder / "evaluation.json").write_text(json.dumps({"rows": rows[:1]}))
    assert "no row of stage 1, step 3, test, sampled: `paced evaluate CONFIG` makes it" in complaint(folder)


def test_a_folder_that_is_no_run_and_one_that_is_not_there_are_named(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    assert "photos: neither a run's folder (config.yaml) nor an experiment's" in complaint(
        tmp_path / "photos"
    )
    assert "nowhere: no such folder" in complaint(tmp_path / "nowhere")


def test_a_file_of_another_version_is_named_with_its_line(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    lines(folder / "stage-1" / "pass_rates.jsonl", [{"problem_id": "a", "correct": 1, "attempts": 4}])
    assert "pass_rates.jsonl:1: no kept" in complaint(folder)


def test_a_configuration_that_is_no_yaml_is_named(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text("a: [")
    assert "config.yaml: not a run's configuration" in complaint(folder)


def test_an_unfinished_experiment_names_what_has_not_ended(tmp_path: Path):
    folder = write_experiment(tmp_path / "exp", {"one": {}, "two": {}}, (1, 2))
    (folder / "arms" / "two" / "seed-1" / "stage-1" / "hf").rmdir()
    text = complaint(folder)
    assert "1 of 4 runs have not come to their end (two seed 1)" in text
    assert "`paced compare" in text


def test_a_missing_file_of_an_arm_is_named_with_the_arm(tmp_path: Path):
    folder = write_experiment(tmp_path / "exp", {"one": {}, "two": {}}, (1, 2))
    (folder / "arms" / "two" / "seed-1" / "stage-1" / "metrics.jsonl").unlink()
    assert "arms/two/seed-1/stage-1/metrics.jsonl is missing" in complaint(folder)


def test_a_report_that_fails_leaves_an_earlier_one_as_it_was(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    before = write_report(folder).read_bytes()
    (folder / "stage-1" / "metrics.jsonl").unlink()
    with pytest.raises(UserError):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_of_a_budget_in_tokens_training_json_says_with_which_step_it_ended(tmp_path: Path):
    config = config_dict(tmp_path, stages=[{"train_tokens": 250}])
    folder = write_run(tmp_path / "run", config=config)
    student, away = folder / "stage-1" / "hf", tmp_path / "hf"
    assert "training.json is missing: put it back, or remove" in complaint(folder)
    student.rename(away)
    missing = "stage-1/training.json is missing: training has not ended; `paced train CONFIG` goes on"
    assert missing in complaint(folder)
    away.rename(student)
    write_ended(StageFolder(folder / "stage-1", 1), Spent(4, 300, 1.5), "budget spent")
    assert "metrics.jsonl ends at step 3 of 4" in complaint(folder)
    write_ended(StageFolder(folder / "stage-1", 1), Spent(3, 300, 1.5), "budget spent")
    assert write_report(folder).exists()
