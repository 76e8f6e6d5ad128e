"""Stages with a budget in tokens or seconds: where they end, what a killed one goes on with, who knows it."""

from __future__ import annotations

import json
import shutil
import signal
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loop.interrupted import lines, wait_for
from loop.on_policy_recipe import ALWAYS, ATTEMPTS, NEVER, SOMETIMES, write_on_policy
from loop.recipes import adopt, records, without_times, write_experiment, write_recipe
from paced_megatron.cli import main
from paced_megatron.experiments.results import read_comparison
from paced_megatron.report.source import read_run
from paced_megatron.rollout.requests import attempt_seed
from paced_megatron.run_folder import RunFolder
from paced_megatron.training import loop
from paced_megatron.training.batches import batch_order
from paced_megatron.training.checkpoints import latest_iteration, spent_at

TOKENS = 500  # twelve steps of four texts
TRAINING = {
    "micro_batch_size": 2,
    "global_batch_size": 4,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "lr_decay_style": "linear",  # so that what is spent shows in the weights
    "lr_warmup_fraction": 0.1,
    "save_interval": 3,
}


def recipe_with(folder: Path, answered: Path | None = None, **sections: Any) -> Path:
    """`write_recipe` with a budget in tokens for all stages; with the text of the run `answered`."""
    defaults = {"training": TRAINING | {"train_tokens": TOKENS}, "stages": [{}], "evaluation": {"every": 0}}
    recipe = write_recipe(folder, **defaults | sections)
    if answered is not None:
        shutil.copytree(answered, folder / "run")
        adopt(recipe)
        # The teacher's answers are of one length: every third is cut, so that steps differ in their tokens.
        path = folder / "run/stage-1/responses.jsonl"
        responses = records(path)
        for response in responses[::3]:
            response["token_ids"] = response["token_ids"][:5]
        path.write_text("".join(json.dumps(response) + "\n" for response in responses))
    return recipe


def ended(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "training.json").read_text())


def assert_ends_with_the_first_step_beyond(stage: Path, amount: int, tokens: list[int]) -> None:
    """`tokens` of each step, worked out from the texts."""
    spent = list(accumulate(tokens))
    assert spent[-1] >= amount > spent[-2]
    assert [record["tokens"] for record in records(stage / "metrics.jsonl")] == tokens
    found = ended(stage)
    assert (found["last_step"], found["tokens"], found["why"]) == (len(tokens), spent[-1], "budget spent")
    assert latest_iteration(stage / "checkpoints") == len(tokens)


@pytest.fixture(scope="module")
def whole(forkery, answered, tmp_path_factory) -> Path:
    """A run on stored text that was never interrupted."""
    recipe = recipe_with(tmp_path_factory.mktemp("whole"), answered)
    forkery.run(["run", recipe])
    return recipe.parent / "run"


def test_on_stored_text_the_stage_ends_at_the_first_step_at_or_beyond_its_tokens(whole):
    """By the stored responses, in the seeded order."""
    stage = whole / "stage-1"
    weighty = {rate["problem_id"] for rate in records(stage / "pass_rates.jsonl") if rate["weight"] > 0}
    texts = [
        len(response["token_ids"])
        for response in records(stage / "responses.jsonl")
        if response["problem_id"] in weighty and response["outcome"] != "truncated"
    ]
    seed = attempt_seed(5, "order of batches", 1)
    tokens: list[int] = []
    while sum(tokens) < TOKENS:
        tokens.append(sum(texts[index] for index in batch_order(len(texts), 4, len(tokens), seed)))
    assert len(set(tokens)) > 2 and len(tokens) > len(texts) / 4  # into a second epoch
    assert_ends_with_the_first_step_beyond(stage, TOKENS, tokens)


def test_the_learning_rate_of_each_step_is_that_of_the_tokens_before_it(whole):
    spent = 0
    for record in records(whole / "stage-1/metrics.jsonl"):
        fraction = spent / TOKENS
        expected = fraction / 0.1 if fraction <= 0.1 else 1 - (fraction - 0.1) / 0.9
        assert record["lr"] == pytest.approx(1e-3 * expected, rel=1e-9)
        spent += record["tokens"]


def test_killed_within_a_budget_of_tokens_it_ends_with_the_same_step_and_weights(
    forkery, answered, whole, tmp_path
):
    recipe = recipe_with(tmp_path, answered)
    run = tmp_path / "run"
    job = forkery.start(["run", recipe])
    between = (4, 5, 7, 8)  # two checkpoints; on a busy machine a step passes between two looks
    assert wait_for(job, lambda run: lines(run / "stage-1/metrics.jsonl") in between, run), job.said()
    job.kill()
    assert job.wait() == [-signal.SIGKILL]
    begun = latest_iteration(run / "stage-1/checkpoints")
    assert begun in (3, 6, 9) and spent_at(run / "stage-1/checkpoints", begun).tokens > 0
    assert not (run / "stage-1/training.json").exists()
    forkery.run(["run", recipe])
    for one, two in zip(
        records(run / "stage-1/metrics.jsonl"), records(whole / "stage-1/metrics.jsonl"), strict=True
    ):
        assert without_times(one) == without_times(two)
    assert ended(run / "stage-1") | {"seconds": 0} == ended(whole / "stage-1") | {"seconds": 0}
    weights, truth = (load_file(folder / "stage-1/hf/model.safetensors") for folder in (run, whole))
    assert all(torch.equal(weights[name], tensor) for name, tensor in truth.items())


def test_killed_between_the_last_checkpoint_and_training_json_it_is_written_without_a_step(
    whole, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = ended(run / "stage-1")
    recipe = recipe_with(tmp_path)
    adopt(recipe)
    (run / "stage-1/training.json").unlink()
    assert main(["evaluate", str(recipe)]) == 2
    assert "put it back, or remove hf/ beside it and run `paced train --stage 1`" in capsys.readouterr().err
    shutil.rmtree(run / "stage-1/hf")
    assert main(["export", str(recipe)]) == 2
    assert "training.json is missing: run `paced train --stage 1` first" in capsys.readouterr().err
    steps = (run / "stage-1/metrics.jsonl").read_bytes()
    assert main(["train", str(recipe)]) == 0
    assert "trained already" in capsys.readouterr().out
    assert ended(run / "stage-1") == before and (run / "stage-1/metrics.jsonl").read_bytes() == steps
    assert main(["export", str(recipe)]) == 0


def test_seconds_are_those_of_the_steps_alone_and_a_restart_goes_on_with_those_of_its_checkpoint(
    answered, tmp_path, monkeypatch
):
    """By a clock on which a step takes a quarter of a second, and a save a minute."""
    now = 0.0

    def look() -> float:
        nonlocal now
        now += 0.25
        return now

    def save(*arguments: Any) -> None:
        nonlocal now
        now += 60.0
        original(*arguments)

    original = loop.save_checkpoint
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=look))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    training = TRAINING | {"train_seconds": 1.9, "save_interval": 3, "keep_checkpoints": 9}
    recipe = recipe_with(tmp_path, answered, training=training)
    stage = tmp_path / "run/stage-1"
    assert main(["train", str(recipe)]) == 0
    expected = {"last_step": 8, "seconds": 2.0, "why": "budget spent"}
    assert {key: ended(stage)[key] for key in expected} == expected
    first = records(stage / "metrics.jsonl")
    assert [record["step_time"] for record in first] == [0.25] * 8
    fractions = [0.25 * step / 1.9 for step in range(8)]
    assert [record["lr"] for record in first] == pytest.approx(
        [1e-3 * (f / 0.1 if f <= 0.1 else 1 - (f - 0.1) / 0.9) for f in fractions], rel=1e-9
    )
    for step in (6, 8):  # as if it had been killed after step 3
        shutil.rmtree(stage / f"checkpoints/iter_000000{step}")
    assert spent_at(stage / "checkpoints", 3).seconds == 0.75
    assert main(["train", str(recipe)]) == 0
    assert ended(stage)["last_step"] == 8
    assert [without_times(record) for record in records(stage / "metrics.jsonl")] == [
        without_times(record) for record in first
    ]


def test_an_on_policy_stage_ends_by_the_tokens_of_the_attempts_that_it_trains_on(tmp_path):
    """All attempts at the problems with 0 < k < K, which the steps' files have; two steps share theirs."""
    stage = {"train_iters": None, "train_tokens": 400, "rollout_every": 2}
    assert main(["run", str(write_on_policy(tmp_path, stage=stage))]) == 0
    folder, tokens = tmp_path / "run/stage-1", []
    metrics = records(folder / "metrics.jsonl")
    for path in sorted((folder / "rollouts").iterdir()):
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for attempt in records(path):
            place = attempt["problem_id"], attempt["index"] // ATTEMPTS
            groups.setdefault(place, []).append(attempt)
        assert len(groups) == 2 * 4  # also where the stage ends with the first of the two
        mixed = [g for g in groups.values() if 0 < sum(a["outcome"] == "correct" for a in g) < ATTEMPTS]
        tokens.append(sum(len(attempt["token_ids"]) for group in mixed for attempt in group))
    by_file = [sum(record["tokens"] for record in metrics[at : at + 2]) for at in range(0, len(metrics), 2)]
    assert by_file[:-1] == tokens[:-1] and by_file[-1] in (tokens[-1], metrics[-1]["tokens"])
    assert_ends_with_the_first_step_beyond(folder, 400, [record["tokens"] for record in metrics])


def test_a_stage_that_finds_nothing_on_the_frontier_any_more_ends_with_a_warning_and_the_remedy(
    tmp_path, capsys
):
    """Greedy attempts at a problem are all alike, so that none is on the frontier."""
    stage = {"train_iters": None, "train_tokens": 100}
    recipe = write_on_policy(tmp_path, (*SOMETIMES, ALWAYS, NEVER), stage=stage)
    for verb in ("rollout", "weigh"):
        assert main([verb, str(recipe)]) == 0
    adopt(recipe, "rollout.temperature=0")
    capsys.readouterr()
    for verb in ("train", "export"):
        assert main([verb, str(recipe), "rollout.temperature=0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: stage 1: the last 10 steps had nothing on the frontier" in said
    assert "stages.0.train_tokens=100" in said and "raise rollout.attempts" in said
    found = ended(tmp_path / "run/stage-1")
    assert (found["last_step"], found["tokens"], found["why"]) == (10, 0, "no text")


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory) -> Path:
    """A run of three stages: tokens of stored text, seconds of the student's own, and the steps that
    `training` names."""
    own = {"text": "rollouts", "divergence": "reverse_kl"}
    recipe = recipe_with(
        tmp_path_factory.mktemp("kinds"),
        training=TRAINING | {"train_iters": 2},
        stages=[{"train_tokens": TOKENS}, own | {"train_seconds": 1e-3}, own],
        evaluation={"every": 4, "attempts": 2, "temperature": 1.0, "top_p": 1.0, "top_k": -1},
    )
    assert main(["run", str(recipe)]) == 0
    return recipe.parent / "run"


def test_stages_of_three_kinds_of_budget_are_measured_at_the_step_with_which_each_ends(two_kinds):
    last = [ended(two_kinds / f"stage-{number}")["last_step"] for number in (1, 2, 3)]
    assert last[0] > 4 and last[1:] == [1, 2]
    rows = json.loads((two_kinds / "evaluation.json").read_text())["rows"]
    between = [(1, step) for step in range(4, last[0], 4)]
    assert [(row["stage"], row["step"]) for row in rows] == [
        (1, 0), *between, *((number, step) for number, step in enumerate(last, start=1))
    ]  # fmt: skip
    assert latest_iteration(two_kinds / "stage-2/checkpoints") == 1


def test_its_report_is_that_of_its_last_step_and_counts_the_steps_of_each_stage(two_kinds):
    last = [ended(two_kinds / f"stage-{number}")["last_step"] for number in (1, 2, 3)]
    assert read_run(RunFolder(two_kinds)).last == (3, 2)
    content = json.loads((two_kinds / "report/report.json").read_text())
    assert content["cost"][0]["steps"] == sum(last)
    assert content["loss"][0]["stages"] == [[0.5, 1], [last[0] + 0.5, 2], [last[0] + 1.5, 3]]
    assert len(content["loss"][0]["mean"]) == sum(last)


ARMS = {
    "paced": {},
    "permuted": {"pacing.permute": True},
    "everything": {"pacing.keep": "all", "pacing.kernel": "uniform"},
}


def test_arms_with_the_same_tokens_take_steps_of_their_own_and_are_compared_at_their_ends(tmp_path, capsys):
    path = write_experiment(
        tmp_path, ARMS, seeds=[1], training=TRAINING | {"train_tokens": TOKENS}, stages=[{}],
        evaluation={"every": 0, "attempts": 2, "temperature": 1.0, "top_p": 1.0, "top_k": -1},
    )  # fmt: skip
    assert main(["compare", str(path)]) == 0
    assert "training, steps" in capsys.readouterr().out
    comparison = read_comparison(tmp_path / "experiment")
    assert comparison.missing == []
    steps: dict[str, list[tuple[float, int]]] = {}
    for name in ARMS:
        run = tmp_path / f"experiment/arms/{name}/seed-1"
        measures, found = comparison.arm(name).measures, ended(run / "stage-1")
        steps[name] = [(record["lr"], record["tokens"]) for record in records(run / "stage-1/metrics.jsonl")]
        spent = list(accumulate(tokens for _, tokens in steps[name]))
        assert spent[-1] >= TOKENS > spent[-2]
        assert measures["training_tokens"].mean == found["tokens"] == spent[-1]
        assert measures["training_steps"].mean == found["last_step"] == len(spent)
        rows = json.loads((run / "evaluation.json").read_text())["rows"]
        assert {row["step"] for row in rows} == {0, len(spent)}
    assert steps["paced"] == steps["permuted"]  # they train on the same problems
    assert main(["compare", str(path)]) == 0
    assert "all of these runs are there already" in capsys.readouterr().out
