"""On-policy stages: whose weights make a step's attempts, what a step trains on, what is left after kills.

References are worked out here, from the recorded attempts: transformers and divergence/reference.py in
float64, with weights, factors and denominator by hand.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loop.interrupted import lines
from loop.on_policy_recipe import (
    ALWAYS,
    ATTEMPTS,
    BATCH,
    NEVER,
    PLAIN,
    SOMETIMES,
    STEP_SIZE,
    write_on_policy,
)
from loop.recipes import QUICKSTART, records, without_times
from loop.test_kills import interrupt_when
from paced_megatron.cli import main
from paced_megatron.config import PacingConfig
from paced_megatron.pacing import read_pass_rates, stage_weights
from paced_megatron.phases import on_policy
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.rollout.attempts import read_attempts
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.rollout.engine import Request, Sampling
from paced_megatron.rollout.requests import attempt_seed
from parallel.reference_step import reference_step

SEED = 5  # of the recipes
STAGE = "run/stage-1"


def prompt_of(problem: str) -> list[int]:
    text = {record["id"]: record["problem"] for record in records(QUICKSTART / "train.jsonl")}[problem]
    return load_tokenizer(QUICKSTART / "student").encode(text + ":", add_special_tokens=False)


def keep_policies(folder: Path, monkeypatch) -> None:
    """Copy each folder that the engine is given on the way to FOLDER/policy-STEP."""
    original = on_policy.save_snapshot
    made = []

    def save_snapshot(job, student, out):
        original(job, student, out)
        made.append(out)
        shutil.copytree(out, folder / f"policy-{len(made)}")

    monkeypatch.setattr(on_policy, "save_snapshot", save_snapshot)


def weights_before(folder: Path, step: int) -> Path:
    """The student before `step` of a run with `keep_policies`; after the last step the exported one."""
    kept = folder / f"policy-{step}"
    return kept if kept.exists() else folder / STAGE / "hf"


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """Three plain gradient steps on all attempts, batches of one in the engine, policies kept."""
    folder = tmp_path_factory.mktemp("on-policy")
    recipe = write_on_policy(folder, rollout={"batch_size": 1}, training=PLAIN)
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_policies(folder, monkeypatch)
        assert main(["run", str(recipe)]) == 0
    return folder


def by_problem(path: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for attempt in read_attempts(path):
        found.setdefault(attempt.problem_id, []).append(attempt)
    return found


def opening_constant(folder: Path) -> float:
    """1 over the mean of p(1-p) of the problems with 0 < k < K, counted from the opening attempts."""
    correct = Counter(
        record["problem_id"]
        for record in records(folder / STAGE / "attempts.jsonl")
        if record["outcome"] == "correct"
    )
    kept = [k / ATTEMPTS * (1 - k / ATTEMPTS) for k in correct.values() if 0 < k < ATTEMPTS]
    return len(kept) / sum(kept)


def texts_by_hand(folder: Path, step: int) -> list[tuple[list[int], tuple[int, ...], float]]:
    """(prompt, response, w_i / K) of every attempt at a problem on the frontier."""
    texts = []
    for problem, attempts in by_problem(folder / STAGE / f"rollouts/step-{step:07d}.jsonl").items():
        assert len(attempts) == ATTEMPTS
        p = sum(attempt.outcome == "correct" for attempt in attempts) / ATTEMPTS
        weight = opening_constant(folder) * p * (1 - p)
        texts += [
            (prompt_of(problem), attempt.token_ids, weight / ATTEMPTS) for attempt in attempts if weight
        ]
    return texts


def assert_step_is_the_gradient(
    folder: Path, step: int, texts, denominator: float = BATCH, per_token_mean: bool = True
) -> None:
    before, after = weights_before(folder, step), weights_before(folder, step + 1)
    _, gradient, _ = reference_step(
        before,
        QUICKSTART / "teacher",
        texts,
        divergence="reverse_kl",
        denominator=denominator,
        per_token_mean=per_token_mean,
    )
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    moved = {name: (old[name].double() - new[name].double()) / STEP_SIZE for name in old}
    whole = torch.cat([gradient[name].flatten() for name in sorted(moved)])
    found = torch.cat([moved[name].flatten() for name in sorted(moved)])
    assert whole.norm() > 0.1  # there is something to compare
    assert (found - whole).norm() / whole.norm() < 2e-4


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_step_is_the_gradient_of_its_own_attempts_with_all_k_of_a_problem_sharing_its_weight(ran, step):
    assert_step_is_the_gradient(ran, step, texts_by_hand(ran, step))


def test_with_one_attempt_a_problem_the_first_has_all_of_its_weight(tmp_path, monkeypatch):
    keep_policies(tmp_path, monkeypatch)
    recipe = write_on_policy(tmp_path, training=PLAIN, stage={"train_on": "one", "train_iters": 1})
    assert main(["run", str(recipe)]) == 0
    everything = texts_by_hand(tmp_path, 1)
    first = [(prompt, response, weight * ATTEMPTS) for prompt, response, weight in everything[::ATTEMPTS]]
    assert_step_is_the_gradient(tmp_path, 1, first)


def test_a_mean_over_tokens_divides_by_those_of_all_problems_of_the_step_also_off_the_frontier(
    tmp_path, monkeypatch
):
    keep_policies(tmp_path, monkeypatch)
    recipe = write_on_policy(tmp_path, training=PLAIN | {"normalization": "tokens"}, stage={"train_iters": 1})
    assert main(["run", str(recipe)]) == 0
    texts = [(prompt, text, weight * ATTEMPTS) for prompt, text, weight in texts_by_hand(tmp_path, 1)]
    groups = by_problem(tmp_path / STAGE / "rollouts/step-0000001.jsonl").values()
    attempts = [attempt for group in groups for attempt in group]
    assert len(texts) < len(attempts)  # a problem is off the frontier
    tokens = sum(len(attempt.token_ids) for attempt in attempts)
    assert_step_is_the_gradient(tmp_path, 1, texts, tokens, per_token_mean=False)


def made_again(folder: Path, step: int, weights: Path) -> list[tuple[int, ...]]:
    """The step's attempts as an engine of its own draws them from these weights."""
    attempts = read_attempts(folder / STAGE / f"rollouts/step-{step:07d}.jsonl")
    seed = attempt_seed(SEED, f"stage-1/rollouts/step-{step:07d}.jsonl", 0)
    engine = EmbeddedEngine(batch_size=1)
    engine.load_weights(weights, "as they were")
    requests = [
        Request(a.problem_id, a.index, tuple(prompt_of(a.problem_id)), attempt_seed(seed, *a.key))
        for a in attempts
    ]
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=16)
    return [unit[0].token_ids for unit in engine.generate(requests, sampling)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_attempts_of_a_step_are_drawn_from_the_weights_before_it(ran, step):
    attempts = read_attempts(ran / STAGE / f"rollouts/step-{step:07d}.jsonl")
    assert {attempt.weight_version for attempt in attempts} == {f"stage-1 step-{step - 1}"}
    recorded = [attempt.token_ids for attempt in attempts]
    assert made_again(ran, step, weights_before(ran, step)) == recorded
    if step > 1:
        assert made_again(ran, step, weights_before(ran, step - 1)) != recorded


def test_a_step_draws_from_all_problems_and_z_stays_the_batch_size(ran):
    drawn = [list(by_problem(ran / STAGE / f"rollouts/step-{step:07d}.jsonl")) for step in (1, 2)]
    assert sorted(drawn[0] + drawn[1]) == sorted((*SOMETIMES, ALWAYS, NEVER))  # an epoch, in some order
    for record in records(ran / STAGE / "metrics.jsonl"):
        groups = by_problem(ran / STAGE / f"rollouts/step-{record['step']:07d}.jsonl").values()
        correct = [sum(attempt.outcome == "correct" for attempt in group) for group in groups]
        kept = sum(0 < k < ATTEMPTS for k in correct)
        assert record["rollout"] == {
            "problems": BATCH,
            "frontier_share": kept / BATCH,
            "kept_share": kept / BATCH,
            "pass_rate": sum(correct) / (BATCH * ATTEMPTS),
            "attempts": BATCH * ATTEMPTS,
            "tokens": sum(len(attempt.token_ids) for group in groups for attempt in group),
            "truncated_share": 0.0,
        }
        assert (record["problems"], record["texts"]) == (kept, kept * ATTEMPTS)
        assert record["timing_s"]["rollout"] > 0 and record["timing_s"]["sync"] > 0


def test_the_teacher_writes_nothing_in_an_on_policy_stage(ran):
    assert not (ran / STAGE / "responses.jsonl").exists()
    assert not (ran / STAGE / "policy").exists()  # cleared up
    phases = Counter(record["phase"] for record in records(ran / "run/timings.jsonl"))
    assert phases == {"attempts": 1, "rollouts": 3}


def test_a_step_with_nothing_on_the_frontier_counts_and_moves_neither_weights_nor_learning_rate(
    tmp_path, monkeypatch
):
    keep_policies(tmp_path, monkeypatch)
    recipe = write_on_policy(
        tmp_path,
        (SOMETIMES[0], ALWAYS, NEVER),
        stage={"train_iters": 6},
        training={"global_batch_size": 1, "micro_batch_size": 1, "lr_warmup_iters": 5, "clip_grad": 0.0},
    )
    assert main(["run", str(recipe)]) == 0
    steps = records(tmp_path / STAGE / "metrics.jsonl")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    empty = [record for record in steps if not record["texts"]]
    assert 2 <= len(empty) <= 4 and any(a["texts"] for a in steps[:-1])
    updates = 0
    for record in steps:
        before, after = (
            load_file(weights_before(tmp_path, record["step"] + later) / "model.safetensors")
            for later in (0, 1)
        )
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert record["lr"] == pytest.approx(1e-3 * updates / 5)  # a warm-up, by updates and not by steps
        assert same == (not record["texts"] or record["lr"] == 0)
        if record["texts"]:
            updates += 1
        else:
            assert (record["loss"], record["grad_norm"], record["divergence"]) == (0.0, 0.0, None)


def test_an_engine_that_keeps_its_weights_and_takes_the_new_name_is_refused(tmp_path, monkeypatch, capsys):
    original = EmbeddedEngine.load_weights

    def stale(self, folder, version):
        if self._loaded is None:
            return original(self, folder, version)
        self.weight_version = version

    monkeypatch.setattr(EmbeddedEngine, "load_weights", stale)
    recipe = write_on_policy(tmp_path)
    assert main(["run", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "stage-1 step-1" in error and "draws from other weights" in error
    assert not (tmp_path / STAGE / "rollouts/step-0000002.jsonl").exists()


def test_with_rollout_every_2_two_steps_share_the_weights_and_train_on_other_problems(tmp_path):
    recipe = write_on_policy(tmp_path, stage={"rollout_every": 2, "leave_one_out": True})
    assert main(["run", str(recipe)]) == 0
    files = sorted((tmp_path / STAGE / "rollouts").iterdir())
    assert [path.name for path in files] == ["step-0000001.jsonl", "step-0000003.jsonl"]
    versions = [{attempt.weight_version for attempt in read_attempts(path)} for path in files]
    assert versions == [{"stage-1 step-0"}, {"stage-1 step-2"}]
    assert [lines(path) for path in files] == [2 * BATCH * ATTEMPTS, BATCH * ATTEMPTS]
    steps = records(tmp_path / STAGE / "metrics.jsonl")
    assert [bool(record["rollout"]) for record in steps] == [True, False, True]
    assert steps[0]["rollout"]["problems"] == 2 * BATCH


def test_a_problem_that_is_drawn_twice_for_a_step_has_other_attempts_and_a_pass_rate_of_its_own(tmp_path):
    recipe = write_on_policy(tmp_path, SOMETIMES[:2], stage={"train_iters": 1})
    assert main(["run", str(recipe)]) == 0
    groups = by_problem(tmp_path / STAGE / "rollouts/step-0000001.jsonl")
    assert {name: [a.index for a in group] for name, group in groups.items()} == {
        name: list(range(2 * ATTEMPTS)) for name in SOMETIMES[:2]
    }
    halves = [group[start : start + ATTEMPTS] for group in groups.values() for start in (0, ATTEMPTS)]
    kept = [0 < sum(a.outcome == "correct" for a in half) < ATTEMPTS for half in halves]
    (step,) = records(tmp_path / STAGE / "metrics.jsonl")
    assert (step["problems"], step["rollout"]["problems"]) == (sum(kept), BATCH)


def test_killed_in_a_rollout_and_between_two_it_ends_with_the_same_weights(tmp_path):
    settings = {"stage": {"train_iters": 6}, "rollout": {"batch_size": 1}, "training": {"save_interval": 3}}
    whole, killed = (
        write_on_policy(tmp_path / "whole", **settings),
        write_on_policy(tmp_path / "k", **settings),
    )

    def in_a_rollout(run: Path) -> bool:
        return 2 <= lines(run / "stage-1/rollouts/step-0000002.jsonl") < BATCH * ATTEMPTS - 2

    def between_two(run: Path) -> bool:
        """With a checkpoint at step 3: what came after it is taken again, from what is recorded."""
        return lines(run / "stage-1/metrics.jsonl") in (4, 5)

    for moment in (in_a_rollout, between_two):
        assert interrupt_when(killed, moment, signal.SIGKILL)[0] < 0
    assert main(["run", str(killed)]) == 0
    assert main(["run", str(whole)]) == 0
    run, other = (recipe.parent / STAGE for recipe in (killed, whole))
    for step in range(1, 7):
        name = f"rollouts/step-{step:07d}.jsonl"
        assert (run / name).read_bytes() == (other / name).read_bytes()
    for one, two in zip(records(run / "metrics.jsonl"), records(other / "metrics.jsonl"), strict=True):
        assert without_times(one) == without_times(two)
    weights, truth = (load_file(folder / "hf/model.safetensors") for folder in (run, other))
    assert all(torch.equal(weights[name], tensor) for name, tensor in truth.items())


def test_attempts_whose_weights_are_gone_are_not_made_by_others(tmp_path, capsys):
    recipe = write_on_policy(tmp_path, stage={"rollout_every": 3}, training={"save_interval": 2})
    assert main(["run", str(recipe)]) == 0
    stage = tmp_path / STAGE
    shutil.rmtree(stage / "hf")
    shutil.rmtree(stage / "checkpoints/iter_0000003")
    rollouts = stage / "rollouts/step-0000001.jsonl"
    rollouts.write_text("\n".join(rollouts.read_text().splitlines()[:-1]) + "\n")
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert str(rollouts) in error and "before step 1" in error
    assert json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_with_a_discount_earlier_visits_count_beside_a_step_s_own_also_after_a_restart(tmp_path):
    """All four problems are drawn in each step; by hand: k <- k/2 + new, n <- n/2 + new, from the opening."""
    paced = {"estimator": "posterior", "discount": 0.5}
    recipe = write_on_policy(tmp_path, SOMETIMES[:BATCH], pacing=paced, training=PLAIN | {"save_interval": 2})
    assert main(["run", str(recipe)]) == 0
    folder = tmp_path / STAGE
    opening = read_pass_rates(folder / "pass_rates.jsonl")
    weigh = stage_weights(opening, PacingConfig(**paced)).weight
    counts = {rate.problem_id: (rate.correct, rate.attempts) for rate in opening}
    differs = 0
    for step in (1, 2, 3):
        weights = []
        for problem, attempts in by_problem(folder / f"rollouts/step-{step:07d}.jsonl").items():
            right = sum(attempt.outcome == "correct" for attempt in attempts)
            counts[problem] = (counts[problem][0] / 2 + right, counts[problem][1] / 2 + ATTEMPTS)
            weights.append(weigh(*counts[problem]))
            differs += weights[-1] != weigh(right, ATTEMPTS)
        said = records(folder / "metrics.jsonl")[step - 1]
        assert said["weight_ess"] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights), rel=1e-9)
    assert differs >= 6
    whole = load_file(folder / "hf/model.safetensors")
    shutil.rmtree(folder / "checkpoints/iter_0000003")
    shutil.rmtree(folder / "hf")
    assert main(["run", str(recipe)]) == 0
    again = load_file(folder / "hf/model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert len(records(folder / "metrics.jsonl")) == 3
