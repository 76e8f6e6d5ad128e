"""Estimators, adaptive rollouts and baselines on the quickstart's models, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from loop.recipes import ATTEMPTS, TRAIN_ITERS, TRAIN_PROBLEMS, records, write_experiment, write_recipe
from paced_megatron.cli import main
from paced_megatron.config import PacingConfig
from paced_megatron.pacing import read_pass_rates, stage_weights
from paced_megatron.phases.weighing import frontier_warnings, in_words, on_policy_warnings

ADAPTIVE = {"attempts": 6, "max_new_tokens": 16, "batch_size": 16, "adaptive": {"rounds": 2, "first": 4}}


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Path:
    """A recipe with adaptive rollouts, rolled out and weighed."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("adaptive"), rollout=ADAPTIVE, pacing={"kernel": "gaussian"}
    )
    assert main(["rollout", str(recipe)]) == main(["weigh", str(recipe)]) == 0
    return recipe


@pytest.fixture
def copy(adaptive: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of that run with its weights taken away, and what `paced VERB` needs to go on with it."""
    run = tmp_path / "run"
    shutil.copytree(adaptive.parent / "run", run)
    (run / "stage-1/pass_rates.jsonl").unlink()
    return run, [str(adaptive), f"run_dir={run}"]


def attempts_of(run: Path) -> dict[tuple[str, int], dict]:
    return {(line["problem_id"], line["index"]): line for line in records(run / "stage-1/attempts.jsonl")}


def test_adaptive_rollouts_keep_to_the_budget_and_their_weights_are_posterior_means(adaptive: Path) -> None:
    run = adaptive.parent / "run"
    rates = read_pass_rates(run / "stage-1/pass_rates.jsonl")
    made = sum(rate.attempts for rate in rates)
    assert made == len(attempts_of(run)) == 6 * TRAIN_PROBLEMS  # step 2 divides what is left
    numbers = {rate.attempts for rate in rates}
    assert min(numbers) == 4 and len(numbers) > 2 and not any(number % 2 for number in numbers)
    expected = stage_weights(rates, PacingConfig(kernel="gaussian", estimator="posterior"))
    written = {line["problem_id"]: line["weight"] for line in records(run / "stage-1/pass_rates.jsonl")}
    assert {name: weight for name, weight in written.items() if weight} == expected.weights


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_adaptive_rollouts_that_were_cut_off_go_on_with_the_same_attempts(
    copy: tuple[Path, list[str]], share: float
) -> None:
    run, arguments = copy
    path, whole = run / "stage-1/attempts.jsonl", attempts_of(run)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])  # as a kill leaves it
    assert main(["weigh", *arguments]) == 2  # not before they are all there
    assert main(["rollout", *arguments]) == 0
    assert attempts_of(run) == whole


def test_weighing_an_unfinished_measurement_counts_what_is_missing(
    copy: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = copy
    path = run / "stage-1/attempts.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    assert main(["weigh", *arguments]) == 2
    assert "3 attempts are missing" in capsys.readouterr().err


def test_at_the_end_of_a_measurement_a_line_says_where_the_problems_lie_and_what_is_trained(
    adaptive: Path, copy: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weigh", *copy[1]]) == 0
    output = " ".join(capsys.readouterr().out.split())
    rates = read_pass_rates(adaptive.parent / "run/stage-1/pass_rates.jsonl")
    mastered = sum(rate.correct == rate.attempts for rate in rates)
    hopeless = sum(rate.correct == 0 for rate in rates)
    frontier = len(rates) - mastered - hopeless
    assert f"of {len(rates)} problems {mastered / 40:.0%} mastered ({mastered}), " in output
    assert f"{frontier / 40:.0%} on the frontier ({frontier}), {hopeless / 40:.0%} hopeless" in output
    assert f"trained on: {frontier} (kernel gaussian, posterior estimator)" in output


def test_a_frontier_that_measuring_again_finds_exhausted_is_told_with_the_remedy(
    adaptive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    two_stages = ["stages=[{train_iters: 6}, {train_iters: 6}]", "rollout.adaptive.rounds=0"]
    arguments = [str(adaptive), f"run_dir={run}", *two_stages]
    for verb in ("rollout", "weigh"):
        assert main([verb, *arguments, "--stage", "1"]) == 0
    assert "exhausted" not in capsys.readouterr().out
    # In stage 1 all were kept; stage 2 measures what stage 1 did.
    rates = run / "stage-1/pass_rates.jsonl"
    lines = [{**line, "kept": True, "weight": 1.0} for line in records(rates)]
    rates.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "stage-2").mkdir()
    shutil.copy(run / "stage-1/attempts.jsonl", run / "stage-2/attempts.jsonl")
    assert main(["weigh", *arguments, "--stage", "2"]) == 0
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert f"where stage 1 kept {TRAIN_PROBLEMS}" in said, said
    assert "exhausted" in said and "stages.1.train_iters" in said


KEY = "training.train_tokens"  # where the budget is set


def test_warnings_come_below_three_batches_and_below_half_of_the_first_frontier() -> None:
    assert frontier_warnings(1, 96, 600, 32, budget_key=KEY) == []
    (few,) = frontier_warnings(1, 95, 600, 32, budget_key=KEY)
    assert "only 95 problems" in few and "3.0 batches of 32" in few and KEY in few
    assert frontier_warnings(2, 100, 600, 32, 200, budget_key=KEY) == []
    (exhausted,) = frontier_warnings(2, 99, 600, 32, 200, budget_key=KEY)
    assert "keeps 99 problems where stage 1 kept 200" in exhausted and "harder problems" in exhausted


def test_a_stage_on_the_student_s_own_text_is_warned_of_steps_with_few_texts_alone() -> None:
    """It draws from all problems and measures them anew: nothing of it is repeated often."""
    assert on_policy_warnings(2, 60, 600, 32, 200, budget_key=KEY) == []
    (few,) = on_policy_warnings(2, 40, 600, 32, 200, budget_key=KEY)
    assert "40 of 600" in few and "about 2.1 will have texts" in few and "repeated" not in few


ARMS = {
    "paced": {},
    "sqrt": {"pacing.kernel": "sqrt"},
    "permuted": {"pacing.permute": True},
    "curriculum": {"pacing.kernel": "uniform", "pacing.order": "easy_to_hard"},
    "sampled": {"pacing.apply": "sample"},
}


@pytest.fixture(scope="module")
def arms(tmp_path_factory) -> dict[str, list[dict]]:
    """Arm -> its lines of metrics.jsonl, all of one seed."""
    path = write_experiment(tmp_path_factory.mktemp("arms"), ARMS, seeds=[1])
    recipe = path.parent / "recipe.yaml"
    document = yaml.safe_load(recipe.read_text())
    document["evaluation"], document["problems"] = {}, {**document["problems"], "test": None}
    del document["problems"]["forgetting"]
    recipe.write_text(yaml.safe_dump(document))
    assert main(["compare", str(path)]) == 0
    return {
        name: records(path.parent / "experiment/arms" / name / "seed-1/stage-1/metrics.jsonl")
        for name in ARMS
    }


def column(lines: list[dict], *names: str) -> list[tuple]:
    return [tuple(line[name] for name in names) for line in lines]


def test_arms_of_a_seed_differ_in_their_weights_alone(arms: dict[str, list[dict]]) -> None:
    """At the first step the unweighted means over its tokens are equal to the last bit, so initial weights,
    text and batch are; pass rates and tokens of every step, so the order is; and the learning rate."""
    paced = arms["paced"]
    for name in ("sqrt", "permuted"):
        assert column(arms[name], "step", "lr", "tokens", "problems", "pass_rate_mean") == column(
            paced, "step", "lr", "tokens", "problems", "pass_rate_mean"
        ), name
        assert column(arms[name][:1], "divergence", "student_entropy", "teacher_entropy") == column(
            paced[:1], "divergence", "student_entropy", "teacher_entropy"
        ), name
        assert column(arms[name], "loss") != column(paced, "loss"), name


def test_sorting_and_sampling_change_the_order_and_nothing_else_of_the_budget(
    arms: dict[str, list[dict]],
) -> None:
    paced, sorted_, sampled = arms["paced"], arms["curriculum"], arms["sampled"]
    for lines in (sorted_, sampled):
        assert column(lines, "step", "lr", "problems") == column(paced, "step", "lr", "problems")
        assert {line["weight_ess"] for line in lines} == {4.0}
    rates = [line["pass_rate_mean"] for line in sorted_]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]
    assert sum(rates) == pytest.approx(sum(line["pass_rate_mean"] for line in paced))  # the same texts
    assert column(sampled, "tokens", "pass_rate_mean") != column(paced, "tokens", "pass_rate_mean")
    assert len(sampled) == TRAIN_ITERS


def test_the_line_at_the_end_says_so_when_weights_are_permuted(adaptive: Path) -> None:
    rates = read_pass_rates(adaptive.parent / "run/stage-1/pass_rates.jsonl")
    pacing = PacingConfig(permute=True)
    assert "kernel beta, posterior estimator, permuted" in in_words(
        rates, stage_weights(rates, pacing), pacing
    )


def test_kept_problems_below_eight_attempts_are_weighed_by_the_posterior_unless_told_otherwise(
    tmp_path: Path, adaptive: Path
) -> None:
    recipe = write_recipe(tmp_path, pacing={})
    assert main(["rollout", str(recipe)]) == main(["weigh", str(recipe)]) == 0
    path = tmp_path / "run/stage-1/pass_rates.jsonl"
    rates = read_pass_rates(path)
    assert {rate.attempts for rate in rates} == {ATTEMPTS}
    written = {line["problem_id"]: line["weight"] for line in records(path) if line["kept"]}
    assert written == stage_weights(rates, PacingConfig(estimator="posterior")).weights
