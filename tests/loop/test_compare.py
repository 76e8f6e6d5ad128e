"""`paced compare`: arms and seeds in one job, each a run of its own, and what a seed shares made once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loop.recipes import (
    ATTEMPTS,
    QUICKSTART,
    TEST_PROBLEMS,
    TRAIN_ITERS,
    TRAIN_PROBLEMS,
    keys,
    records,
    run_paced,
    start_paced,
    without_times,
    write_experiment,
)
from paced_megatron.cli import main
from paced_megatron.experiments.results import read_comparison

RUNS = [(arm, seed) for arm in ("everything", "paced") for seed in (1, 2)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """The file of an experiment of two arms and two seeds that has been run, by itself in one process."""
    path = write_experiment(tmp_path_factory.mktemp("compare"))
    assert main(["compare", str(path)]) == 0
    return path


def folder_of(experiment: Path) -> Path:
    return experiment.parent / "experiment"


def run_of(experiment: Path, arm: str, seed: int) -> Path:
    return folder_of(experiment) / "arms" / arm / f"seed-{seed}"


def assert_same_run(run: Path, other: Path) -> None:
    """All that a run measures and trains is equal to the last bit; only times may differ."""
    for name in ("attempts", "responses", "pass_rates", "attempts_after", "pass_rates_after"):
        assert records(run / f"stage-1/{name}.jsonl") == records(other / f"stage-1/{name}.jsonl"), name
    metrics = [records(folder / "stage-1/metrics.jsonl") for folder in (run, other)]
    for one, two in zip(*metrics, strict=True):
        assert without_times(one) == without_times(two)
    rows, expected = (json.loads((folder / "evaluation.json").read_text()) for folder in (run, other))
    assert rows == expected
    assert (run / "strata.jsonl").read_text() == (other / "strata.jsonl").read_text()
    weights, truth = (load_file(folder / "stage-1/hf/model.safetensors") for folder in (run, other))
    assert weights.keys() == truth.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in truth.items())


def test_every_arm_and_seed_is_a_whole_run_with_every_measurement(experiment):
    for arm, seed in RUNS:
        run = run_of(experiment, arm, seed)
        assert len(keys(run / "stage-1/attempts.jsonl")) == TRAIN_PROBLEMS * ATTEMPTS
        assert [record["step"] for record in records(run / "stage-1/metrics.jsonl")] == [
            *range(1, TRAIN_ITERS + 1)
        ]
        rows = json.loads((run / "evaluation.json").read_text())["rows"]
        assert [(row["step"], row["problem_set"], row["decoding"]) for row in rows] == [
            (step, problem_set, decoding)
            for step in (0, 3, TRAIN_ITERS)
            for problem_set in ("forgetting", "test")
            for decoding in ("greedy", "sampled")
        ]
        assert {row["attempts"] for row in rows if row["decoding"] == "greedy"} == {1}
        strata = {record["stratum"] for record in records(run / "strata.jsonl")}
        assert all(set(row["accuracy_by_stratum"]) == strata for row in rows if row["problem_set"] == "test")
        assert len(records(run / "stage-1/pass_rates_after.jsonl")) == TRAIN_PROBLEMS


def test_what_the_arms_of_a_seed_share_was_made_once_and_another_seed_draws_anew(experiment):
    for name in ("attempts.jsonl", "responses.jsonl", "evaluation/step-0000000/test-sampled.jsonl"):
        inodes = {
            seed: {
                path.stat().st_ino for path in folder_of(experiment).glob(f"*/**/seed-{seed}/stage-1/{name}")
            }
            for seed in (1, 2)
        }
        assert [len(each) for each in inodes.values()] == [1, 1], name
        one, two = (records(run_of(experiment, "paced", seed) / "stage-1" / name) for seed in (1, 2))
        assert one != two
    lines = records(folder_of(experiment) / "shared/seed-1/timings.jsonl")
    assert [line["phase"] for line in lines][:3] == ["attempts", "responses", "strata"]
    for arm in ("everything", "paced"):
        phases = [line["phase"] for line in records(run_of(experiment, arm, 1) / "timings.jsonl")]
        assert phases.count("attempts") == phases.count("responses") == phases.count("strata") == 1


def test_another_seed_gives_another_student_but_the_same_greedy_answers_before_training(experiment):
    runs = [run_of(experiment, "paced", seed) for seed in (1, 2)]
    weights = [load_file(run / "stage-1/hf/model.safetensors")["model.norm.weight"] for run in runs]
    assert not torch.equal(*weights)
    answers = [
        [record["token_ids"] for record in records(run / "stage-1/evaluation/step-0000000/test-greedy.jsonl")]
        for run in runs
    ]
    assert answers[0] == answers[1]  # one student, and nothing drawn


def test_each_arm_trains_on_what_it_keeps(experiment):
    kept = {
        arm: [record["kept"] for record in records(run_of(experiment, arm, 1) / "stage-1/pass_rates.jsonl")]
        for arm in ("everything", "paced")
    }
    assert all(kept["everything"]) and 0 < sum(kept["paced"]) < TRAIN_PROBLEMS
    weights = [load_file(run_of(experiment, arm, 1) / "stage-1/hf/model.safetensors") for arm in kept]
    assert not torch.equal(weights[0]["model.norm.weight"], weights[1]["model.norm.weight"])


def test_the_table_is_the_mean_of_the_runs_rows(experiment):
    comparison = read_comparison(folder_of(experiment))
    assert not comparison.missing
    for arm in ("everything", "paced"):
        by_seed = comparison.arm(arm).measures["test_sampled"].by_seed
        for seed in (1, 2):
            rows = json.loads((run_of(experiment, arm, seed) / "evaluation.json").read_text())["rows"]
            (row,) = [
                r for r in rows if (r["step"], r["problem_set"], r["decoding"]) == (6, "test", "sampled")
            ]
            assert by_seed[seed] == pytest.approx(row["accuracy"], abs=1e-12)
    assert comparison.problems["test_sampled"] == TEST_PROBLEMS
    assert json.loads((folder_of(experiment) / "comparison.json").read_text())["seeds"] == [1, 2]
    assert (folder_of(experiment) / "report.html").is_file()


def test_an_arm_is_the_run_that_paced_run_makes_of_its_configuration(experiment, tmp_path):
    run = run_of(experiment, "paced", 2)
    assert main(["run", str(run / "config.yaml"), f"run_dir={tmp_path / 'alone'}"]) == 0
    assert_same_run(tmp_path / "alone", run)


def test_paced_run_accepts_an_arms_folder_as_it_is(experiment, capsys):
    assert main(["run", str(run_of(experiment, "everything", 1) / "config.yaml")]) == 0
    assert "trained already" in capsys.readouterr().out


def test_started_again_it_makes_nothing_and_shows_the_table_again(experiment, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder_of(experiment).rglob("*.safetensors")}
    assert main(["compare", str(experiment)]) == 0
    assert "all of these runs are there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_is_taken_away_is_made_again_the_same_and_the_others_stay(experiment, tmp_path):
    copy = tmp_path / "experiment"
    shutil.copytree(folder_of(experiment), copy)
    gone = copy / "arms/everything/seed-2"
    shutil.rmtree(gone)
    kept = copy / "arms/everything/seed-1/stage-1/hf/model.safetensors"
    before = kept.stat().st_mtime_ns
    assert main(["compare", str(copy / "experiment.yaml"), f"run_dir={copy}"]) == 0
    assert_same_run(gone, run_of(experiment, "everything", 2))
    assert kept.stat().st_mtime_ns == before


def test_a_shared_file_that_changed_is_noticed_before_anything_is_run(experiment, tmp_path, capsys):
    copy = tmp_path / "experiment"
    shutil.copytree(folder_of(experiment), copy)
    shutil.rmtree(copy / "arms/paced/seed-1")
    shared = copy / "shared/seed-1/stage-1/attempts.jsonl"
    shared.write_text(shared.read_text().replace('"correct"', '"incorrect"', 1))
    assert main(["compare", str(copy / "experiment.yaml"), f"run_dir={copy}"]) == 2
    line = capsys.readouterr().err.strip()
    assert f"{shared} is not what it was" in line and "\n" not in line
    assert not (copy / "arms/paced/seed-1").exists()


def kill_when(experiment: Path, reached) -> None:
    process = start_paced("compare", experiment)
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_killed_and_started_again_it_goes_on_and_ends_with_the_same_weights(experiment, tmp_path):
    path = write_experiment(tmp_path)
    attempts = folder_of(path) / "shared/seed-2/stage-1/attempts.jsonl"
    steps = run_of(path, "paced", 1) / "stage-1/metrics.jsonl"
    kill_when(path, lambda: attempts.exists() and attempts.stat().st_size > 0)
    kill_when(path, lambda: steps.exists() and steps.read_bytes().count(b"\n") >= 3)
    code, output, errors = run_paced("compare", path)
    assert code == 0, output + errors
    assert "run 2 of 4: paced, seed 1" in output and "run 1 of 4" not in output
    for arm, seed in RUNS:
        assert_same_run(run_of(path, arm, seed), run_of(experiment, arm, seed))


@pytest.mark.parallel
def test_over_two_processes_all_runs_are_made_in_one_job_and_equal_those_made_alone(tmp_path):
    path = write_experiment(tmp_path, seeds=[3], parallel={"tensor_model_parallel_size": 2})
    code, output, errors = run_paced("compare", path)
    assert code == 0, output + errors
    assert output.count("run 1 of 2") == output.count("run 2 of 2") == 1  # rank 0 alone speaks
    assert "Traceback" not in errors
    assert output.rstrip().splitlines()[-1].split() == ["report:", str(folder_of(path) / "report.html")]
    run = run_of(path, "paced", 3)  # the second of the job: whatever the first left behind would show
    code, output, errors = run_paced("run", run / "config.yaml", f"run_dir={tmp_path / 'alone'}")
    assert code == 0, output + errors
    assert_same_run(tmp_path / "alone", run)


def refused(path: Path, capsys, *arguments: str) -> str:
    assert main(["compare", str(path), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def set_problems(path: Path, level: str) -> None:
    lines = (QUICKSTART / "train.jsonl").read_text().splitlines(keepends=True)
    (path.parent / "train.jsonl").write_text("".join([x for x in lines if f'"level": "{level}"' in x][:20]))


@pytest.mark.parametrize(("level", "word"), [("9", "easier"), ("0", "harder")])
def test_problems_that_are_all_hopeless_or_all_mastered_end_before_anything_is_trained(
    tmp_path, capsys, level, word
):
    path = write_experiment(tmp_path, seeds=[1], rollout={"attempts": 2, "max_new_tokens": 16})
    set_problems(path, level)
    line = refused(path, capsys)
    assert line.startswith("paced: arm paced, seed 1: ") and word in line, line
    assert "20 problems" in line
    assert not list(folder_of(path).glob("arms/*/*/stage-1/metrics.jsonl"))


def test_one_attempt_an_unknown_arm_and_an_unknown_seed_are_refused_and_nothing_is_written(tmp_path, capsys):
    path = write_experiment(tmp_path)
    assert "rollout.attempts" in refused(path, capsys, "rollout.attempts=1")
    assert "no arm pased" in refused(path, capsys, "--arms", "pased")
    assert "no seed 9" in refused(path, capsys, "--seeds", "9")
    assert not folder_of(path).exists()


def test_a_part_is_run_and_shown_and_what_is_missing_is_named(experiment, tmp_path, capsys):
    copy = tmp_path / "experiment"
    shutil.copytree(folder_of(experiment), copy)
    shutil.rmtree(copy / "arms/everything/seed-2")
    shutil.rmtree(copy / "arms/paced/seed-1")
    shutil.rmtree(copy / "arms/paced/seed-2")
    arguments = [str(copy / "experiment.yaml"), f"run_dir={copy}", "--arms", "everything", "--seeds", "1"]
    assert main(["compare", *arguments]) == 0
    output = capsys.readouterr().out
    assert "not run yet: paced seed 1, everything seed 2, paced seed 2" in output
    assert "3 runs of the experiment are missing" in " ".join(output.split())
    shutil.rmtree(copy / "arms/everything/seed-1")
    assert main(["report", str(copy)]) == 2
    assert "have not come to" in capsys.readouterr().err
