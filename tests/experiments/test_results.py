"""The numbers of an experiment against runs written by hand: four held-out problems, two attempts each."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hand_made_runs import HELD_OUT, write_experiment
from paced_megatron.errors import UserError
from paced_megatron.experiments.experiment import BEFORE, read_experiment
from paced_megatron.experiments.finished import is_finished
from paced_megatron.experiments.results import Comparison, read_comparison, write_comparison
from paced_megatron.run_folder import ExperimentFolder

ARMS = {"everything": {"pacing.keep": "all", "pacing.kernel": "uniform"}, "paced": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """h2 has (arm + place of the seed) % 3 correct attempts of two; e1, e2, h1 have 2, 2, 1 in every run."""
    return write_experiment(tmp_path / "experiment", ARMS, seeds=[4, 5])


def test_an_arms_accuracy_is_the_mean_over_its_seeds_with_their_deviation(folder: Path) -> None:
    assert HELD_OUT[1] | {"h2": 0} == {"e1": 2, "e2": 2, "h1": 1, "h2": 0}
    everything, paced = (read_comparison(folder).arm(name).measures["test_sampled"] for name in ARMS)
    assert everything.by_seed == {4: 5 / 8, 5: 6 / 8}
    assert paced.by_seed == {4: 6 / 8, 5: 7 / 8}
    assert everything.mean == pytest.approx(11 / 16)
    assert everything.deviation == pytest.approx((2 * (1 / 16) ** 2) ** 0.5)


def test_the_student_before_training_is_the_first_arm_and_cost_nothing(folder: Path) -> None:
    before = read_comparison(folder).arms[0]
    assert before.name == BEFORE
    assert before.measures["test_sampled"].by_seed == {4: 3 / 8, 5: 3 / 8}  # 2, 1, 0, 0 of two attempts each
    assert "training_tokens" not in before.measures


def test_strata_are_those_of_the_file_and_are_counted(folder: Path) -> None:
    comparison = read_comparison(folder)
    measures = comparison.arm("paced").measures
    assert measures["test_sampled_always"].by_seed == {4: 1.0, 5: 1.0}  # e1
    assert measures["test_sampled_frontier"].by_seed == {4: 0.75, 5: 0.75}  # e2 and h1
    assert measures["test_sampled_never"].by_seed == {4: 0.5, 5: 1.0}  # h2
    assert comparison.problems == {
        "test_sampled": 4,
        "test_sampled_always": 1,
        "test_sampled_frontier": 2,
        "test_sampled_never": 1,
    }


def test_costs_are_sums_over_steps_and_rollouts_stand_apart(folder: Path) -> None:
    measures = read_comparison(folder).arm("paced").measures
    costs = {name: measures[name].mean for name in measures if not name.startswith("test")}
    assert costs == {
        "problems_kept": 3,
        "training_steps": 3,
        "training_tokens": 300,
        "training_seconds": 1.5,
        "rollout_tokens": 230,  # attempts and responses; what was generated to measure is not among them
        "rollout_seconds": 3.0,
    }


def test_differences_are_taken_seed_by_seed(folder: Path) -> None:
    difference = read_comparison(folder).difference("paced", "everything", "test_sampled")
    assert difference is not None
    assert difference.by_seed == {4: 1 / 8, 5: 1 / 8}
    # Unpaired, a spread as large as the difference; in pairs there is none, which is no certainty.
    assert (difference.mean, difference.low, difference.high) == (1 / 8, None, None)
    assert difference.over == "seeds" and not difference.is_clear
    against = read_comparison(folder).difference("everything", "paced", "test_sampled")
    assert against is not None and (against.mean, against.low, against.high) == (-1 / 8, None, None)


def test_with_one_seed_the_interval_is_over_the_problems(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "experiment", ARMS, seeds=[4])
    difference = read_comparison(folder).difference("paced", "everything", "test_sampled")
    assert difference is not None
    # Shares differ by 0, 0, 0, 1/2: mean 1/8, deviation 1/4, 3 degrees of freedom.
    assert (difference.mean, difference.over) == (1 / 8, "problems")
    assert difference.low == pytest.approx(1 / 8 - 3.182 * 0.25 / 2)
    assert not difference.is_clear
    alone = read_comparison(folder).difference("paced", "everything", "test_sampled_never")
    assert alone is not None and alone.low is None and not alone.is_clear  # one problem tells no interval


def test_runs_without_an_end_are_named_and_left_out(folder: Path) -> None:
    (folder / "arms/paced/seed-5/evaluation.json").unlink()
    comparison = read_comparison(folder)
    assert comparison.missing == [("paced", 5)]
    assert comparison.arm("paced").seeds == [4]
    difference = comparison.difference("paced", "everything", "test_sampled")
    assert difference is not None and difference.by_seed == {4: 1 / 8} and difference.over == "problems"
    for run in folder.glob("arms/*/*"):
        (run / "evaluation.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="none of the 4 runs has come to its end"):
        read_comparison(folder)


def test_a_finished_run_without_its_metrics_or_attempts_is_named_with_the_file(folder: Path) -> None:
    metrics = folder / "arms/paced/seed-5/stage-1/metrics.jsonl"
    kept = metrics.read_text()
    metrics.unlink()
    with pytest.raises(UserError, match=r"paced/seed-5/stage-1/metrics\.jsonl has 0 of 3 steps"):
        read_comparison(folder)
    metrics.write_text(kept)
    (folder / "arms/paced/seed-5/stage-1/evaluation/step-0000003/test-sampled.jsonl").unlink()
    with pytest.raises(UserError, match=r"step-0000003/test-sampled\.jsonl is missing"):
        read_comparison(folder)


def test_a_run_is_finished_only_with_what_was_forgotten_where_that_is_asked_for(folder: Path) -> None:
    experiment = read_experiment(ExperimentFolder(folder))
    config, run = experiment.config("paced", 4), experiment.folder.arm("paced", 4)
    asking = replace(config, evaluation=replace(config.evaluation, forgetting_tasks=["sums"]))
    assert is_finished(run, config) and not is_finished(run, asking)
    run.stage(1).forgetting(3, "sums").write_text("{}\n")
    assert not is_finished(run, asking)  # the summary comes last
    run.forgetting.write_text("{}")
    assert is_finished(run, asking)


def test_the_files_say_what_the_comparison_says(folder: Path) -> None:
    comparison: Comparison = read_comparison(folder)
    write_comparison(comparison, ExperimentFolder(folder))
    written = json.loads((folder / "comparison.json").read_text())
    assert [arm["name"] for arm in written["arms"]] == [BEFORE, "everything", "paced"]
    with (folder / "comparison.csv").open() as file:
        lines = {(line["arm"], line["measure"]): line for line in csv.DictReader(file)}
    line = lines["paced", "test_sampled"]
    assert (float(line["mean"]), float(line["seed_4"]), float(line["seed_5"])) == (13 / 16, 6 / 8, 7 / 8)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not an experiment's folder \(it has no experiment\.yaml\)"):
        read_comparison(tmp_path)
