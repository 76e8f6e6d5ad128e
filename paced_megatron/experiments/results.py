"""The numbers of an experiment, read from the files of its runs and from nothing else.

`read_comparison` is the way in. comparison.json is `Comparison` as JSON (dataclasses as objects; seeds, as
keys, are text there), comparison.csv its table, a line per arm and measure.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.experiments.end import ACCURACIES, COSTS, EndOfRun, end_of_run
from paced_megatron.experiments.experiment import BEFORE, Experiment, read_experiment
from paced_megatron.experiments.finished import missing_runs
from paced_megatron.experiments.intervals import deviation, interval, mean
from paced_megatron.run_folder import ExperimentFolder
from paced_megatron.runtime.files import write_atomically

Ends = Mapping[tuple[str, int], EndOfRun]


@dataclass(frozen=True)
class Measured:
    """An arm's number: mean over seeds, sample deviation over seeds (None with one seed), and each seed's."""

    mean: float
    deviation: float | None
    by_seed: dict[int, float]


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    Attributes:
        name: as in the experiment; `BEFORE` is the student before training.
        overrides: dotted key -> value, what makes the arm; `pacing`: its whole section of that name. Both are
            empty for `BEFORE`.
        seeds: those whose run has come to its end.
        measures: accuracies in [0, 1] and costs, by name (`end.py`, ACCURACIES and COSTS).
    """

    name: str
    overrides: dict[str, Any]
    pacing: dict[str, Any]
    seeds: list[int]
    measures: dict[str, Measured]


@dataclass(frozen=True)
class Difference:
    """`arm` minus `other` in one accuracy, in pairs.

    Attributes:
        by_seed: the difference in each seed that both have.
        low, high: 95 % interval of the mean, by Student's t: over seeds where both have at least two, else
            over the problems of the one seed. None where there is only one problem, or all differ
            by the same.
        over: "seeds" or "problems".
    """

    arm: str
    other: str
    measure: str
    mean: float
    low: float | None
    high: float | None
    over: str
    by_seed: dict[int, float]

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def reversed(self) -> Difference:
        """other - arm."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        by_seed = {seed: -value for seed, value in self.by_seed.items()}
        return Difference(self.other, self.arm, self.measure, -self.mean, low, high, self.over, by_seed)


@dataclass(frozen=True)
class Comparison:
    """An experiment's outcome. `arms` begins with `BEFORE`; `missing` are the (arm, seed) that have no end;
    `problems` counts the held-out problems of each measure, in the first seed (strata differ a little between
    seeds)."""

    seeds: list[int]
    arms: list[Arm]
    problems: dict[str, int]
    differences: list[Difference]
    missing: list[tuple[str, int]]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def difference(self, arm: str, other: str, measure: str) -> Difference | None:
        """arm - other, whichever way round it is kept; None where it was not measured."""
        for kept in self.differences:
            if kept.measure == measure and {kept.arm, kept.other} == {arm, other}:
                return kept if kept.arm == arm else kept.reversed()
        return None


def read_comparison(path: Path) -> Comparison:
    """The outcome so far of the experiment in the folder `path`.

    Raises:
        UserError: not an experiment's folder; no run in it has come to its end; a file that a finished run
            has is missing or broken (it is named).
    """
    folder = ExperimentFolder(path)
    experiment = read_experiment(folder)
    missing = missing_runs(experiment)
    ends = _ends(experiment, [run for run in experiment.runs() if run not in missing])
    if not ends:
        raise UserError(
            f"{path}: none of the {len(missing)} runs has come to its end; `paced compare "
            f"{folder.experiment}` goes on with them"
        )
    arms = [_arm(name, experiment, ends) for name in (BEFORE, *experiment.arms)]
    first = ends[BEFORE, min(seed for _, seed in ends)]
    return Comparison(
        seeds=list(experiment.seeds),
        arms=[arm for arm in arms if arm.seeds],
        problems={name: len(shares) for name, shares in first.shares.items()},
        differences=_differences([arm.name for arm in arms if arm.seeds], ends),
        missing=missing,
    )


def write_comparison(comparison: Comparison, folder: ExperimentFolder) -> None:
    """comparison.json and comparison.csv."""
    write_atomically(folder.comparison, json.dumps(asdict(comparison), indent=1) + "\n")
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["arm", "measure", "mean", "deviation", *(f"seed_{seed}" for seed in comparison.seeds)])
    for arm in comparison.arms:
        for name, measured in arm.measures.items():
            seeds = [measured.by_seed.get(seed, "") for seed in comparison.seeds]
            spread = "" if measured.deviation is None else measured.deviation
            table.writerow([arm.name, name, measured.mean, spread, *seeds])
    write_atomically(folder.comparison_csv, lines.getvalue())


def _ends(experiment: Experiment, finished: Sequence[tuple[str, int]]) -> dict[tuple[str, int], EndOfRun]:
    """By (arm, seed); under `BEFORE` the first measurement of a seed, which its arms share."""
    ends: dict[tuple[str, int], EndOfRun] = {}
    for arm, seed in finished:
        run, config = experiment.folder.arm(arm, seed), experiment.config(arm, seed)
        if (BEFORE, seed) not in ends:
            ends[BEFORE, seed] = end_of_run(run, config, before=True)
        ends[arm, seed] = end_of_run(run, config)
    return ends


def _arm(name: str, experiment: Experiment, ends: Ends) -> Arm:
    mine = {seed: end for (arm, seed), end in ends.items() if arm == name}
    measures = {}
    for measure in (*ACCURACIES, *COSTS):
        by_seed = {seed: end.numbers[measure] for seed, end in mine.items() if measure in end.numbers}
        if by_seed:
            values = list(by_seed.values())
            measures[measure] = Measured(mean(values), deviation(values), by_seed)
    pacing = {} if name == BEFORE else asdict(experiment.configs[name].pacing)
    return Arm(name, dict(experiment.arms.get(name, {})), pacing, list(mine), measures)


def _differences(names: Sequence[str], ends: Ends) -> list[Difference]:
    """Of every two arms in every accuracy: the later arm minus the earlier one; `BEFORE` is the earliest."""
    found = (
        _difference(arm, other, measure, ends)
        for other, arm in combinations(names, 2)
        for measure in ACCURACIES
    )
    return [difference for difference in found if difference is not None]


def _difference(arm: str, other: str, measure: str, ends: Ends) -> Difference | None:
    pairs = {
        seed: (ends[arm, seed], ends[other, seed])
        for name, seed in ends
        if name == arm and (other, seed) in ends and measure in ends[arm, seed].numbers
    }
    by_seed = {seed: one.numbers[measure] - two.numbers[measure] for seed, (one, two) in pairs.items()}
    if not by_seed:
        return None
    over, samples = "seeds", list(by_seed.values())
    if len(samples) == 1:
        [(one, two)] = pairs.values()
        over = "problems"
        samples = [share - two.shares[measure][problem] for problem, share in one.shares[measure].items()]
    low, high = interval(samples) or (None, None)
    return Difference(arm, other, measure, mean(list(by_seed.values())), low, high, over, by_seed)
