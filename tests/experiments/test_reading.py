"""What is said follows from the numbers: turn them round, and the sentences turn round."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from paced_megatron.experiments.experiment import BEFORE
from paced_megatron.experiments.intervals import deviation, interval, mean
from paced_megatron.experiments.reading import reading
from paced_megatron.experiments.results import Arm, Comparison, Difference, Measured
from paced_megatron.experiments.table import comparison_table

EVERYTHING = {"kernel": "uniform", "keep": "all", "permute": False}
PACED = {"kernel": "beta", "keep": "frontier", "permute": False}
PACING = {
    BEFORE: {},
    "everything": EVERYTHING,
    "paced": PACED,
    "permuted": PACED | {"permute": True},
    "solvable": EVERYTHING | {"keep": "solvable"},
}
Numbers = Mapping[str, Sequence[float]]


def comparison(sampled: Numbers, greedy: Numbers | None = None, missing: int = 0) -> Comparison:
    """By arm, an accuracy for each seed."""
    measures = {"test_sampled": sampled, "test_greedy": greedy or sampled}
    arms = []
    for name, values in sampled.items():
        by_measure = {
            measure: Measured(mean(of[name]), deviation(of[name]), dict(enumerate(of[name], start=1)))
            for measure, of in measures.items()
        }
        arms.append(Arm(name, {}, PACING[name], list(range(1, len(values) + 1)), by_measure))
    differences = []
    for measure, of in measures.items():
        for place, other in enumerate(of):
            for name in list(of)[place + 1 :]:
                by_seed = {
                    seed: a - b for seed, (a, b) in enumerate(zip(of[name], of[other], strict=True), start=1)
                }
                low, high = interval(list(by_seed.values())) or (None, None)
                middle = mean(list(by_seed.values()))
                differences.append(Difference(name, other, measure, middle, low, high, "seeds", by_seed))
    return Comparison([1, 2, 3], arms, {"test_sampled": 400}, differences, [("paced", 9)] * missing)


SAMPLED = {
    BEFORE: (0.44, 0.44, 0.43),
    "everything": (0.330, 0.328, 0.332),
    "paced": (0.479, 0.483, 0.487),
    "permuted": (0.486, 0.477, 0.487),
    "solvable": (0.479, 0.481, 0.482),
}


def test_arms_that_cannot_be_told_apart_are_said_to_be_so_and_the_gain_is_put_down_to_what_they_share() -> (
    None
):
    text = reading(comparison(SAMPLED))
    assert "43.7 % before training and 33.0 % with everything" in text
    assert "paced +15.3 (" in text and "not clear" not in text.splitlines()[0]
    assert "Among paced, permuted and solvable no difference is clear" in text
    assert "With paced's weights dealt out anew among its problems (permuted) nothing clear changes" in text
    assert "paced and leaving out only those that are never solved (solvable) can't be told apart" in text
    assert "so its whole gain over everything may be theirs" in text
    assert "Greedy decoding agrees" in text
    assert "over 3 seeds" in text


def test_where_the_shape_matters_it_says_so_on_the_side_on_which_it_lies() -> None:
    worse = SAMPLED | {"permuted": (0.400, 0.402, 0.404)}
    text = reading(comparison(worse))
    assert "paced is clearly better than paced's weights dealt out anew" in text
    assert "paced against permuted" in text or "permuted against paced" in text
    assert "paced is clearly worse than" in reading(comparison(SAMPLED | {"permuted": (0.58, 0.582, 0.584)}))


def test_where_leaving_out_the_hopeless_ones_is_not_enough_it_says_so() -> None:
    text = reading(comparison(SAMPLED | {"solvable": (0.400, 0.402, 0.404)}))
    assert (
        "paced is clearly ahead of leaving out only those that are never solved (solvable): paced +8" in text
    )
    assert "may be theirs" not in text
    behind = reading(comparison(SAMPLED | {"solvable": (0.600, 0.602, 0.604)}))
    assert "paced is clearly behind leaving out only" in behind


def test_no_gain_over_everything_is_put_down_to_nothing() -> None:
    text = reading(comparison(SAMPLED | {"everything": (0.52, 0.45, 0.47)}))
    assert "may be theirs" not in text
    assert "not clear" in text.splitlines()[0]


def test_greedy_decoding_that_turns_the_order_round_is_not_called_agreement() -> None:
    greedy = {name: tuple(0.9 - value for value in values) for name, values in SAMPLED.items()}
    text = reading(comparison(SAMPLED, greedy))
    assert "Greedy decoding does not agree, against everything: paced −15.3" in text


def test_missing_runs_are_counted() -> None:
    assert "2 runs of the experiment are missing." in reading(comparison(SAMPLED, missing=2))


def test_one_seed_in_which_no_interval_could_be_given_is_still_called_one_seed() -> None:
    """Where each problem's share changed by the same, as by nothing."""
    one = comparison({name: values[:1] for name, values in SAMPLED.items()})
    differences = [replace(difference, over="problems") for difference in one.differences]
    assert all(difference.low is None for difference in differences)
    assert "One seed: the intervals are over the held-out problems" in reading(
        replace(one, differences=differences)
    )


def test_an_experiment_of_one_arm_is_read_without_comparing() -> None:
    text = reading(comparison({BEFORE: SAMPLED[BEFORE], "paced": SAMPLED["paced"]}))
    assert "48.3 % with paced" in text and "Among" not in text


@pytest.mark.parametrize("arms", [2, 5])
def test_the_table_fits_80_columns_and_has_a_column_for_every_arm(arms: int) -> None:
    some = dict(list(SAMPLED.items())[:arms])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison(some)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    row = next(line for line in lines if line.strip().startswith("held-out, sampled"))
    assert (
        row.split()[2:] == ["(400)", "43.7±0.6", "33.0±0.2", "48.3±0.4", "48.3±0.6", "48.1±0.2"][: arms + 1]
    )


@pytest.mark.parametrize("tokens", [14_080.0, 1_423_432_340.0])
def test_no_number_of_the_table_loses_a_digit_at_80_columns(tokens: float) -> None:
    """Four arms whose accuracies are as broad as they get; with many tokens the arms come in two tables."""
    full = comparison(dict.fromkeys(SAMPLED, (1.0, 1.0, 1.0)))
    for arm in full.arms:
        arm.measures["training_tokens"] = Measured(tokens, 0.0, {})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(full))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    for row, number in (("held-out, sampled", "100.0±0.0"), ("training, tokens", f"{tokens:,.0f}")):
        assert sum(line.split().count(number) for line in lines if line.strip().startswith(row)) == 5
    headings = [line.split() for line in lines if set(line.split()) & set(SAMPLED)]
    assert [name for line in headings[-2 if tokens > 1e6 else -1 :] for name in line] == list(SAMPLED)
