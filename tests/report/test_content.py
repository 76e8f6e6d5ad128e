"""Every number of a report, worked out by hand from the files in `hand_made_runs.py`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from hand_made_runs import LOSSES, WEIGHTS, config_dict, write_run
from paced_megatron.config.budget import Budget
from paced_megatron.report.page import _in_each_run
from paced_megatron.report.palette import LIGHT
from paced_megatron.report.pictures.canvas import WIDE, Canvas
from paced_megatron.report.pictures.loss import as_drawn, stage_borders
from paced_megatron.report.steps import loss_curve, losses
from paced_megatron.report.write import read_content
from paced_megatron.run_folder import StageFolder
from paced_megatron.training.budget import Spent, write_ended


def test_movements_are_those_between_the_two_files(run_report: Any):
    [found] = run_report.content["movements"]
    assert found["problem_set"] == "train"
    assert found["before"] == [1, 2, 1, 0, 1]
    assert found["after"] == [2, 0, 0, 1, 2]
    # a 0 -> 0, b 1 -> 3, c 2 -> 4, d 4 -> 4, e 1 -> 0
    assert found["matrix"] == [[1, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [0, 0, 0, 0, 1]]
    assert (found["up"], found["down"], found["same"]) == (2, 1, 2)


def test_what_would_move_by_chance_is_the_binomial_of_the_rates_before(run_report: Any):
    [found] = run_report.content["movements"]
    # Two problems with p = 1/4: up is 1 - (3/4)^4 - 4 (1/4)(3/4)^3 = 67/256, down (3/4)^4 = 81/256;
    # one with p = 1/2: up and down 5/16 each.
    assert found["up_by_chance"] == pytest.approx(2 * 67 / 256 + 5 / 16)
    assert found["down_by_chance"] == pytest.approx(2 * 81 / 256 + 5 / 16)


def test_weights_are_means_by_pass_rate_and_the_curve_is_the_kernel_through_them(run_report: Any):
    [found] = run_report.content["movements"]
    assert found["weights"] == [[0.0, 0.0], [0.25, 0.9], [0.5, 1.2], [1.0, 0.0]]
    curve = dict(map(tuple, found["curve"]))
    assert curve[0.25] == pytest.approx(0.9)
    assert curve[0.5] == pytest.approx(1.2)
    assert curve[0.0] == curve[1.0] == 0.0
    assert found["weight_label"] == "w(p) = p(1 − p)"


def test_weights_that_are_not_the_kernels_get_no_curve(tmp_path: Path):
    dealt = dict(zip(WEIGHTS, [1.2, 0.9, 0.9], strict=True))
    [found] = read_content(write_run(tmp_path / "run", weights=dealt))["movements"]
    assert found["curve"] is None
    assert found["weights"][1] == [0.25, pytest.approx((1.2 + 0.9) / 2)]


def test_a_uniform_kernel_is_drawn_over_what_it_keeps(tmp_path: Path):
    config = config_dict(tmp_path, pacing={"kernel": "uniform", "keep": "solvable"})
    weights = dict.fromkeys("bcde", 1.0)
    [found] = read_content(write_run(tmp_path / "run", weights=weights, config=config))["movements"]
    assert (found["curve"][0], found["curve"][-1]) == ([0.25, 1.0], [1.0, 1.0])
    assert found["weight_label"] == "w(p) = 1"


def test_accuracy_before_and_after_is_the_mean_over_problems(run_report: Any):
    found = {(each["group"], each["name"]): each for each in run_report.content["accuracy"]}
    whole = found["all", "all"]["arms"][0]
    assert whole["before"]["mean"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert whole["after"]["mean"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert whole["gain"]["mean"] == pytest.approx(0.25)
    frontier = found["stratum", "frontier"]["arms"][0]  # e2 and h1
    assert (frontier["before"]["mean"], frontier["after"]["mean"]) == (0.25, 0.75)
    hard = found["level", "hard"]["arms"][0]  # h1 and h2
    assert (hard["before"]["mean"], hard["after"]["mean"], hard["after"]["low"]) == (0.0, 0.25, None)


def test_a_single_runs_intervals_are_over_problems_and_in_pairs(run_report: Any):
    whole = run_report.content["accuracy"][0]["arms"][0]
    assert run_report.content["intervals"] == "problems"
    # Gains are 0, 1/2, 1/2, 0: resampled means lie in [0, 1/2], and seldom at the ends.
    assert 0 <= whole["gain"]["low"] < 0.25 < whole["gain"]["high"] <= 0.5
    assert whole["gain"]["n"] == 4


def test_cost_keeps_rollouts_apart(run_report: Any):
    [found] = run_report.content["cost"]
    assert found["steps"] == 3
    assert found["training"] == {"tokens": 300, "seconds": 1.5}
    assert found["rollouts"] == {"tokens": 200, "seconds": 2.0}
    assert found["responses"] == {"tokens": 30, "seconds": 1.0}
    assert found["measuring"] == {"tokens": 84, "seconds": 0.75}


def test_the_loss_is_every_step_of_every_seed_and_their_mean(run_report: Any, experiment_report: Any):
    [found] = run_report.content["loss"]
    assert found["mean"] == [[1, 0.5], [2, 0.25], [3, 0.125]]
    assert [len(loss["seeds"]) for loss in experiment_report.content["loss"]] == [3, 3, 3, 3]


def test_seeds_that_end_a_stage_with_other_steps_begin_the_next_together_and_are_averaged_where_all_are():
    def run(seed: int, *losses: Sequence[float]) -> Any:
        stages = [
            SimpleNamespace(metrics=[{"step": step, "loss": loss} for step, loss in enumerate(of, start=1)])
            for of in losses
        ]
        return SimpleNamespace(config=SimpleNamespace(seed=seed), stages=stages)

    found = loss_curve("arm", [run(1, (8, 4, 2), (1,)), run(2, (4, 2), (3, 5))])
    assert found["stages"] == [[0.5, 1], [3.5, 2]]
    assert found["seeds"][1]["points"] == [(1, 4), (2, 2), (4, 3), (5, 5)]
    assert found["mean"] == [[1, 6], [2, 3], [4, 2]]


def spending(seed: int, name: str, amount: float, *stages: Sequence[tuple[float, int]]) -> Any:
    """A run whose stages each have this budget and these (loss, tokens) by step."""
    made = [
        SimpleNamespace(
            number=number,
            metrics=[
                {"step": step, "loss": loss, "tokens": tokens, "step_time": tokens / 10}
                for step, (loss, tokens) in enumerate(steps, start=1)
            ],
        )
        for number, steps in enumerate(stages, start=1)
    ]
    budget = Budget(name, amount, "by hand")
    return SimpleNamespace(config=SimpleNamespace(seed=seed, budget=lambda number: budget), stages=made)


def test_arms_with_budgets_in_tokens_or_seconds_are_laid_over_what_they_have_spent_of_them():
    quick = spending(1, "train_tokens", 100, [(8, 50), (4, 50)], [(2, 25), (1, 100)])  # 25 beyond the last
    slow = spending(1, "train_seconds", 20, [(6, 50), (5, 50), (4, 100)], [(3, 100)])  # and 10 s left over
    counted = spending(1, "train_iters", 4, [(1, 5)] * 4, [(1, 5)] * 4)
    first, second, third = losses([("quick", [quick]), ("slow", [slow]), ("counted", [counted])])
    assert first["mean"] == [[1, 8], [2, 4], [3, 2], [4, 1]]
    assert first["by_budget"]["mean"] == [[0.5, 8], [1.0, 4], [1.2, 2], [2.0, 1]]
    assert second["by_budget"]["mean"] == [[0.25, 6], [0.5, 5], [1.0, 4], [1.5, 3]]
    assert [x for x, _ in third["by_budget"]["mean"]] == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert first["by_budget"]["stages"] == second["by_budget"]["stages"] == [[0, 1], [1, 2]]


def test_the_mean_over_seeds_that_took_other_steps_is_taken_at_the_same_share_of_the_budget():
    seeds = [
        spending(1, "train_tokens", 100, [(8, 50), (4, 50)]),
        spending(2, "train_tokens", 100, [(9, 25), (5, 50), (1, 25)]),  # at 1/4, 3/4, 1: at 1/2 it is 7
    ]
    [found] = losses([("arm", seeds)])
    assert found["by_budget"]["mean"] == [[0.5, 7.5], [1.0, 2.5]]


def test_budgets_in_steps_are_drawn_over_steps_though_arms_have_other_numbers_of_them():
    short, long = (spending(1, "train_iters", amount, [(2, 5)] * amount) for amount in (2, 4))
    assert [found["by_budget"] for found in losses([("short", [short]), ("long", [long])])] == [None, None]


def test_the_page_of_a_run_with_a_budget_in_tokens_says_over_what_it_is_drawn(
    tmp_path: Path, run_report: Any
):
    from paced_megatron.report import write_report

    config = config_dict(tmp_path, stages=[{"train_tokens": 250}])
    folder = write_run(tmp_path / "run", config=config)
    write_ended(StageFolder(folder / "stage-1", 1), Spent(3, 300, 1.5), "budget spent")
    html = write_report(folder).read_text()
    assert "Drawn over the budget in tokens or seconds" in html
    assert "Drawn over the budget" not in run_report.html
    [drawn] = as_drawn(read_content(folder)["loss"])
    assert [round(x, 3) for x, _ in drawn["mean"]] == [0.333, 0.667, 1.0]


def test_runs_that_end_with_other_steps_are_not_said_to_take_the_same():
    def facts(*steps: int) -> Any:
        losses = [{"seeds": [{"points": [[1, 0.5]] * number}]} for number in steps]
        return _in_each_run({"loss": losses})

    assert facts(3, 3) == "in every run"
    assert facts(3, 1200, 7) == "from 3 to 1\u2009200 by run"


def test_where_arms_begin_a_stage_at_other_steps_each_has_a_border_of_its_own():
    def borders(*begins: float) -> list[float]:
        axes = Figure().add_subplot()
        losses = [{"stages": [[0.5, 1], [begin, 2]]} for begin in begins]
        stage_borders(Canvas(WIDE, LIGHT), axes, losses)
        return [float(line.get_xdata()[0]) for line in axes.lines]

    assert borders(3.5, 3.5) == [3.5]
    assert borders(3.5, 7.5) == [3.5, 7.5]


def test_an_experiments_intervals_are_over_seeds(experiment_report: Any):
    whole = experiment_report.content["accuracy"][0]
    assert experiment_report.content["intervals"] == "seeds"
    # h2 is solved 0, 1, 2 times of 2 by the first arm's seeds, the others as after: (2.5 + h2/2) / 4.
    first = whole["arms"][0]
    assert first["seeds"] == [pytest.approx(0.625), pytest.approx(0.75), pytest.approx(0.875)]
    half = 4.303 * 0.125 / math.sqrt(3)
    assert first["after"]["mean"] == pytest.approx(0.75)
    assert first["after"]["low"] == pytest.approx(0.75 - half)
    assert first["gain"]["high"] == pytest.approx(0.75 - 0.375 + half)


def test_arms_are_compared_seed_by_seed(experiment_report: Any):
    found = {
        (each["arm"], each["other"]): each
        for each in experiment_report.content["differences"]
        if each["measure"] == "test_sampled"
    }
    # By seed the second arm solves h2 1, 2, 0 times and the first 0, 1, 2: +1/8, +1/8, -1/4.
    paced = found["paced", "unweighted"]
    assert paced["by_seed"] == {
        "1": pytest.approx(0.125),
        "2": pytest.approx(0.125),
        "3": pytest.approx(-0.25),
    }
    assert paced["mean"] == pytest.approx(0.0)
    assert len(found) == 6


def test_a_loss_that_is_not_a_number_is_null_in_the_json_and_a_gap_in_the_rest(tmp_path: Path):
    from paced_megatron.report import write_report

    folder = write_run(tmp_path / "run", losses=(0.5, math.nan, 0.125))
    html = write_report(folder).read_text()
    content = json.loads((folder / "report" / "report.json").read_text())
    assert content["loss"][0]["mean"] == [[1, 0.5], [2, None], [3, 0.125]]
    assert "NaN" not in (folder / "report" / "report.json").read_text()
    assert "nan" not in html.lower().replace("nano", "")


def test_without_held_out_problems_the_report_says_so(tmp_path: Path):
    from paced_megatron.report import write_report

    config = config_dict(tmp_path, problems={"train": "t"}, evaluation={})
    folder = write_run(tmp_path / "run", config=config)
    html = write_report(folder).read_text()
    assert "no held-out problems" in html
    assert json.loads((folder / "report" / "report.json").read_text())["movements"][0]["after"] is None


def test_without_pass_rates_after_training_the_held_out_problems_show_the_movement(tmp_path: Path):
    config = config_dict(tmp_path, evaluation={"attempts": 2})
    [found] = read_content(write_run(tmp_path / "run", config=config))["movements"]
    assert found["problem_set"] == "test"
    assert found["matrix"] == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]  # h2 stays, h1 0 -> 1, e2 1 -> 2, e1 stays


def test_the_csv_files_say_what_the_json_says(experiment_report: Any):
    content, beside = experiment_report.content, experiment_report.folder / "report"
    rows = list(csv.DictReader((beside / "accuracy.csv").open()))
    first = next(row for row in rows if (row["arm"], row["when"], row["group"]) == ("paced", "after", "all"))
    assert float(first["mean"]) == content["accuracy"][0]["arms"][1]["after"]["mean"]
    losses = list(csv.DictReader((beside / "loss.csv").open()))
    assert len(losses) == 4 * 3 * len(LOSSES)
    moves = list(csv.DictReader((beside / "movements.csv").open()))
    assert sum(int(row["problems"]) for row in moves if row["arm"] == "paced") == 15  # 5 problems, 3 seeds
