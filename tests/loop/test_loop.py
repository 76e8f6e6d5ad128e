"""The whole loop on the quickstart's models: what it leaves behind, and that its parts are the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loop.recipes import (
    ATTEMPTS,
    QUICKSTART,
    ROOT,
    TEST_PROBLEMS,
    TRAIN_ITERS,
    TRAIN_PROBLEMS,
    keys,
    records,
    run_paced,
    write_recipe,
)
from paced_megatron.cli import main
from paced_megatron.runtime.launch import free_port


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run's folder after `paced run` over two processes, tensor-parallel, with two stages."""
    folder = tmp_path_factory.mktemp("loop")
    recipe = write_recipe(
        folder,
        parallel={"tensor_model_parallel_size": 2},
        stages=[
            {"divergence": "forward_kl", "train_iters": TRAIN_ITERS},
            {"divergence": "reverse_kl", "train_iters": 2},
        ],
    )
    code, output, errors = run_paced("run", recipe)
    assert code == 0, output + errors
    assert "Traceback" not in errors
    return folder, output


@pytest.mark.parallel
def test_every_problem_is_attempted_k_times_and_each_attempt_is_scored(finished):
    stage = finished[0] / "run" / "stage-1"
    attempts = records(stage / "attempts.jsonl")
    problems = [record["id"] for record in records(finished[0] / "train.jsonl")]
    assert sorted(keys(stage / "attempts.jsonl")) == sorted((p, k) for p in problems for k in range(ATTEMPTS))
    answers = {record["id"]: record["answer"] for record in records(finished[0] / "train.jsonl")}
    for attempt in attempts:
        _, marker, answer = attempt["text"].rpartition("#")
        right = marker and answer == answers[attempt["problem_id"]] and attempt["finish_reason"] == "stop"
        assert (attempt["outcome"] == "correct") == bool(right)


@pytest.mark.parallel
def test_weights_are_p_times_one_minus_p_with_mean_one_over_the_frontier(finished):
    stage = finished[0] / "run" / "stage-1"
    correct: dict[str, int] = {}
    for attempt in records(stage / "attempts.jsonl"):
        correct[attempt["problem_id"]] = correct.get(attempt["problem_id"], 0) + (
            attempt["outcome"] == "correct"
        )
    raw = {name: k / ATTEMPTS * (1 - k / ATTEMPTS) for name, k in correct.items()}
    kept = {name: value for name, value in raw.items() if value > 0}
    assert 0 < len(kept) < TRAIN_PROBLEMS
    mean = sum(kept.values()) / len(kept)
    for record in records(stage / "pass_rates.jsonl"):
        assert record["weight"] == pytest.approx(raw[record["problem_id"]] / mean)
    responses = records(stage / "responses.jsonl")
    assert sorted(record["problem_id"] for record in responses) == sorted(kept)
    assert {record["weight_version"] for record in responses} == {"teacher"}


@pytest.mark.parallel
def test_metrics_have_each_step_once_and_the_loss_goes_down(finished):
    metrics = records(finished[0] / "run" / "stage-1" / "metrics.jsonl")
    assert [record["step"] for record in metrics] == list(range(1, TRAIN_ITERS + 1))
    # Four problems a step are noisy; over the whole run the first and last thirds tell.
    first, last = metrics[: TRAIN_ITERS // 3], metrics[-TRAIN_ITERS // 3 :]
    assert sum(m["divergence"] for m in last) < sum(m["divergence"] for m in first)
    assert all(record["problems"] == 4 for record in metrics)


@pytest.mark.parallel
def test_the_export_is_a_trained_folder_that_transformers_opens(finished):
    stage = finished[0] / "run" / "stage-1"
    before, after = (
        load_file(QUICKSTART / "student/model.safetensors"),
        load_file(stage / "hf/model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert set(changed) == set(before)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(stage / "hf"),
        AutoTokenizer.from_pretrained(stage / "hf"),
    )
    assert model.config.vocab_size >= len(tokenizer)


@pytest.mark.parallel
def test_the_second_stage_measures_the_student_that_the_first_one_made(finished):
    run = finished[0] / "run"
    assert {record["weight_version"] for record in records(run / "stage-1/attempts.jsonl")} == {"initial"}
    assert {record["weight_version"] for record in records(run / "stage-2/attempts.jsonl")} == {"stage-1"}
    assert keys(run / "stage-1/attempts.jsonl") == keys(run / "stage-2/attempts.jsonl")
    first, second = (
        load_file(run / "stage-1/hf/model.safetensors"),
        load_file(run / "stage-2/hf/model.safetensors"),
    )
    assert not torch.equal(first["model.norm.weight"], second["model.norm.weight"])


@pytest.mark.parallel
def test_evaluation_has_a_row_before_after_and_every_so_many_steps(finished):
    rows = json.loads((finished[0] / "run" / "evaluation.json").read_text())["rows"]
    assert [(row["stage"], row["step"]) for row in rows] == [(1, 0), (1, 3), (1, TRAIN_ITERS), (2, 2)]
    assert all(row["problems"] == TEST_PROBLEMS and sum(row["outcomes"].values()) == 20 for row in rows)
    assert not list((finished[0] / "run" / "stage-1").glob("snapshot*"))


@pytest.mark.parallel
def test_started_again_it_says_that_all_is_done_and_changes_nothing(finished):
    before = times_of_change(finished[0] / "run")
    report = (finished[0] / "run/report.html").read_bytes()
    code, output, errors = run_paced("run", finished[0] / "recipe.yaml")
    assert code == 0, errors
    assert "trained already" in output
    assert times_of_change(finished[0] / "run") == before
    assert (finished[0] / "run/report.html").read_bytes() == report  # drawn anew, and the same


def times_of_change(run):
    """Of all that a run makes; its report is drawn from that each time."""
    kinds = (".json", ".jsonl", ".pt", ".safetensors")
    made = [path for path in run.rglob("*") if path.suffix in kinds and path.parent.name != "report"]
    return {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.parallel
def test_two_data_parallel_processes_take_the_steps_of_one(tmp_path):
    one = write_recipe(tmp_path / "one", evaluation={"every": 0})
    two = write_recipe(tmp_path / "two", evaluation={"every": 0}, parallel={"data_parallel_size": 2})
    assert main(["run", str(one)]) == 0
    code, output, errors = run_paced("run", two)
    assert code == 0, output + errors
    metrics = [records(recipe.parent / "run/stage-1/metrics.jsonl") for recipe in (one, two)]
    for alone, together in zip(*metrics, strict=True):
        for name in ("loss", "grad_norm", "divergence", "student_entropy", "tokens"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4), (name, alone["step"])


@pytest.mark.parallel
def test_under_torchrun_it_joins_the_job_instead_of_starting_one(finished):
    """The finished run again, so that only joining and agreeing are left to do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(free_port()), "-m", "paced_megatron.cli", "run", str(finished[0] / "recipe.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("stage 1: trained already") == 1  # rank 0 alone speaks


def test_without_the_megatron_model_there_is_no_training(tmp_path, monkeypatch):
    """The student that is trained is Megatron's: with its forward broken the loop ends in its error."""
    from megatron.core.models.gpt.gpt_model import GPTModel

    def broken(self, *args, **kwargs):
        raise RuntimeError("Megatron's forward was called")

    monkeypatch.setattr(GPTModel, "forward", broken)
    recipe = write_recipe(tmp_path, evaluation={"every": 0})
    with pytest.raises(RuntimeError, match="Megatron's forward was called"):
        main(["run", str(recipe)])
    assert (tmp_path / "run/stage-1/responses.jsonl").exists()
    assert not (tmp_path / "run/stage-1/hf").exists()


def test_each_verb_names_the_one_that_has_to_come_before_it(tmp_path, capsys):
    recipe = str(write_recipe(tmp_path))
    for verb, before in (
        ("weigh", "rollout"),
        ("respond", "weigh"),
        ("train", "weigh"),
        ("export", "train"),
        ("evaluate", "export"),
    ):
        assert main([verb, recipe, "--stage", "1"]) == 2
        assert f"paced {before}" in capsys.readouterr().err


def test_the_verbs_one_by_one_make_the_same_student_as_run(tmp_path):
    together, apart = write_recipe(tmp_path / "together"), write_recipe(tmp_path / "apart")
    assert main(["run", str(together)]) == 0
    for verb in ("rollout", "weigh", "respond", "train", "export", "evaluate"):
        assert main([verb, str(apart), "--stage", "1"]) == 0
    one, other = (
        load_file(tmp_path / name / "run/stage-1/hf/model.safetensors") for name in ("together", "apart")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
