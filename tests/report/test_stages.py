"""Problems from stage to stage, whatever the numbers of attempts; and the weights of each stage."""

from __future__ import annotations

import csv
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from hand_made_runs import config_dict, write_run, write_stages
from paced_megatron.report import write_report
from paced_megatron.report.write import read_content

STAGES = (
    {"a": (0, 4), "b": (1, 4), "c": (2, 4), "d": (4, 4)},
    {"a": (0, 4), "b": (3, 4), "c": (2, 4), "d": (3, 4)},
    {"a": (1, 4), "b": (4, 4), "c": (2, 4), "d": (4, 4)},
)
MIXED = ({"a": (0, 4), "b": (1, 32), "c": (15, 16), "d": (8, 8)}, {"a": (1, 8), "b": (1, 32), "c": (3, 4)})


def test_problems_move_from_stage_to_stage(tmp_path: Path):
    [found] = read_content(write_stages(tmp_path / "run", STAGES))["movements"]
    assert [moment["name"] for moment in found["moments"]] == ["before", "before stage 2", "after"]
    assert [moment["counts"] for moment in found["moments"]] == [
        [1, 1, 1, 0, 1],
        [1, 0, 1, 2, 0],
        [0, 1, 1, 0, 2],
    ]
    first, second = found["matrices"]
    assert (first[0][0], first[1][3], first[2][2], first[4][3]) == (1, 1, 1, 1)
    assert (second[0][1], second[3][4], second[2][2]) == (1, 2, 1)
    # From the first to the last: a 0 -> 1 and b 1 -> 4 up, c and d where they were.
    assert (found["up"], found["down"], found["same"]) == (2, 0, 2)
    assert [moment["weights"] for moment in found["moments"]][1] == [[0.0, 0.0], [0.5, 0.25], [0.75, 0.1875]]
    assert found["moments"][2]["weights"] == []


def test_each_stage_has_its_weights_in_the_table_and_the_files(tmp_path: Path):
    folder = write_stages(tmp_path / "run", STAGES)
    html = write_report(folder).read_text()
    one, two = csv.DictReader((folder / "report" / "stages.csv").open())
    counts = ("stage", "problems", "never", "always", "kept")
    assert [float(one[key]) for key in counts] == [1, 4, 1, 1, 2]
    assert [float(two[key]) for key in counts] == [2, 4, 1, 0, 3]
    assert (float(two["smallest"]), float(two["median"]), float(two["largest"])) == (0.1875, 0.1875, 0.25)
    assert float(two["lower_quarter"]) == 0.1875 and float(two["upper_quarter"]) == pytest.approx(0.21875)
    assert float(two["ess"]) == pytest.approx(0.625**2 / (2 * 0.1875**2 + 0.25**2))
    assert "before, before stage 2, after" in html
    assert html.count("before stage 2</tspan>") + html.count(">before stage 2</text>") == 2  # wide and narrow


@pytest.mark.parametrize("normalize, said", [("kept", "The kept problems' weights"), ("all", "The weights")])
def test_the_page_says_over_which_problems_the_weights_have_the_mean_1(tmp_path: Path, normalize, said):
    # k of 4 is 0, 1, 2, 4, 1: of five problems three are kept, p(1-p) = 3/16, 4/16, 3/16.
    problems = {"kept": 3, "all": 5}[normalize]
    weights = {name: raw * problems / 10 for name, raw in {"b": 3, "c": 4, "e": 3}.items()}
    config = config_dict(tmp_path / "run") | {"pacing": {"normalize": normalize, "estimator": "plugin"}}
    html = write_report(write_run(tmp_path / "run", weights=weights, config=config)).read_text()
    assert unescape(html).count(f"{said} have the mean 1") == 1
    assert ("those that are left out counting 0" in html) == (normalize == "all")


def test_a_run_of_two_stages_without_rates_after_ends_before_the_second(tmp_path: Path):
    folder = write_stages(tmp_path / "run", STAGES, evaluation={})
    (folder / "stage-2" / "pass_rates_after.jsonl").unlink()
    [found] = read_content(folder)["movements"]
    assert [moment["name"] for moment in found["moments"]] == ["before", "before stage 2"]
    assert (found["up"], found["down"], found["same"]) == (1, 1, 2)


def test_where_problems_have_different_numbers_of_attempts_they_are_shown_by_pass_rate(tmp_path: Path):
    [found] = read_content(write_stages(tmp_path / "run", MIXED))["movements"]
    before, after = found["moments"]
    assert before["attempts"] is None and after["attempts"] is None
    # d has no after. 1/32 is no zero and 15/16 no one, though they round to them.
    assert before["counts"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert after["counts"] == [0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0]  # 1/8 -> 0.1, 3/4 -> 0.8
    assert (found["up"], found["down"], found["same"]) == (1, 1, 1)


def test_chance_is_each_problems_own_binomial(tmp_path: Path):
    moments = ({"a": (1, 2), "b": (1, 4), "c": (0, 8)}, {"a": (1, 2), "b": (1, 1), "c": (0, 8)})
    [found] = read_content(write_stages(tmp_path / "run", moments))["movements"]
    # a: 2 more attempts with p = 1/2, so 1/4 up and 1/4 down; b: one with p = 1/4, and neither result is 1/4.
    assert found["up_by_chance"] == pytest.approx(1 / 4 + 1 / 4)
    assert found["down_by_chance"] == pytest.approx(1 / 4 + 3 / 4)


def test_the_files_have_the_exact_counts_of_each_problem_that_the_bands_round(tmp_path: Path):
    folder = write_stages(tmp_path / "run", MIXED)
    html = write_report(folder).read_text()
    rows = [
        tuple(int(row[key]) for key in row if key.startswith(("correct", "attempts", "problems")))
        for row in csv.DictReader((folder / "report" / "movements.csv").open())
    ]
    assert sorted(rows) == [(0, 4, 1, 8, 1), (1, 32, 1, 32, 1), (15, 16, 3, 4, 1)]
    assert "rounded to a tenth" in html and ">pass rate</text>" in html


def test_many_attempts_alike_are_shown_in_bands_too(tmp_path: Path):
    same: list[dict[str, Any]] = [{"a": (3, 16), "b": (0, 16)}] * 2
    assert read_content(write_stages(tmp_path / "16", same))["movements"][0]["moments"][0]["attempts"] == 16
    same = [{"a": (3, 64), "b": (0, 64)}] * 2
    [found] = read_content(write_stages(tmp_path / "64", same))["movements"]
    assert found["moments"][0]["attempts"] is None
    assert found["before"] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
