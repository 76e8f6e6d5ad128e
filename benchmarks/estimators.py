"""What estimators and adaptive rollouts are worth: the error of a problem's weight for so many attempts.

    PYTHONPATH=. python benchmarks/estimators.py            # three minutes on one core
    PYTHONPATH=. python benchmarks/estimators.py --quick --out /tmp/quick.csv

Every attempt is a coin that falls with a known pass rate p: drawn from a uniform or a U-shaped prior, or,
with `--rates`, the shares recorded of a real student (attempts drawn from the record with replacement):

    paced rollout examples/quickstart/quickstart.yaml run_dir=/tmp/pool rollout.attempts=64
    paced weigh examples/quickstart/quickstart.yaml run_dir=/tmp/pool rollout.attempts=64
    ... benchmarks/estimators.py --rates /tmp/pool/stage-1/pass_rates.jsonl

Nothing is timed.
"""

from __future__ import annotations

import argparse
import csv
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from machine import ROOT, commit
from numpy.typing import NDArray

from paced_megatron.config import PacingConfig
from paced_megatron.pacing import PassRate, Plan, attempt_rounds, read_pass_rates, stage_weights
from paced_megatron.pacing.allocation import Key

Answers = NDArray[np.bool_]  # [problems, attempts that could be asked for]
PRIORS = {"uniform": (1.0, 1.0), "Beta(.3, .3)": (0.3, 0.3), "Beta(.3, .6)": (0.3, 0.6)}
MEANS = (4, 6, 8, 12, 16, 24, 32)
MOST = 64


@dataclass(frozen=True)
class Way:
    """How attempts are handed out (0 rounds: evenly), and how their outcomes become a weight."""

    name: str
    estimator: Literal["plugin", "unbiased", "posterior"]
    rounds: int


WAYS = (
    Way("even, plug-in", "plugin", 0),
    Way("even, unbiased", "unbiased", 0),
    Way("even, posterior", "posterior", 0),
    Way("adaptive, posterior", "posterior", 4),
)


def counted(answers: Answers, way: Way, mean: int, seed: int) -> list[PassRate]:
    """What is counted when attempts are handed out this way, `mean` a problem."""
    ids = [str(problem) for problem in range(len(answers))]
    if way.rounds == 0 or mean <= 4:
        return [PassRate(i, int(row[:mean].sum()), mean) for i, row in zip(ids, answers, strict=True)]
    plan = Plan(mean=mean, rounds=way.rounds, first=4, step=2, most=min(MOST, answers.shape[1]))
    solved: dict[Key, bool] = {}
    rounds = attempt_rounds(ids, solved, plan, seed)
    while any(key not in solved for key in rounds[-1]):
        solved |= {(name, index): bool(answers[int(name), index]) for name, index in rounds[-1]}
        rounds = attempt_rounds(ids, solved, plan, seed)
    made: dict[str, list[bool]] = {name: [] for name in ids}
    for (name, _), right in solved.items():
        made[name].append(right)
    return [PassRate(name, sum(right), len(right)) for name, right in made.items()]


def measure(answers: Answers, true: NDArray[np.float64], way: Way, mean: int, seed: int) -> dict[str, float]:
    """Error of the estimated p(1-p), and the efficiency of weights in its proportion (METHOD.md 1.3 f)."""
    rates = counted(answers, way, mean, seed)
    paced = stage_weights(rates, PacingConfig(estimator=way.estimator, keep="all"))
    found = np.array([paced.raw(rate.correct, rate.attempts) for rate in rates])
    return {
        "attempts": sum(rate.attempts for rate in rates) / len(rates),
        "mse": float(((found - true) ** 2).mean()),
        "efficiency": float((found * true).mean() ** 2 / (found**2).mean() / (true**2).mean()),
    }


Problems = Callable[[np.random.Generator], NDArray[np.float64]]  # -> their pass rates


def from_prior(a: float, b: float, problems: int) -> Problems:
    return lambda rng: rng.beta(a, b, problems)


def from_record(path: Path, problems: int) -> Problems:
    shares = np.array([rate.value for rate in read_pass_rates(path)])
    return lambda rng: shares[:problems]


def averaged(problems: Problems, way: Way, mean: int, repetitions: int) -> dict[str, float]:
    """Means over the repetitions, and the standard error of the mean squared error."""
    found = []
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        p = problems(rng)
        found.append(measure(rng.random((len(p), MOST)) < p[:, None], p * (1 - p), way, mean, seed))
    means = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
    return means | {"mse_se": float(np.std([each["mse"] for each in found], ddof=1) / repetitions**0.5)}


def rows(sources: dict[str, Problems], means: Sequence[int], repetitions: int) -> Iterator[dict[str, object]]:
    """A row for each set of problems, way and number of attempts."""
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": commit(),
        "numpy": np.__version__,
        "repetitions": repetitions,
    }
    for source, problems in sources.items():
        curves = {way.name: [averaged(problems, way, mean, repetitions) for mean in means] for way in WAYS}
        for way in WAYS:
            for point in curves[way.name]:
                others = {
                    f"attempts_{each.estimator}": same_error(curves[each.name], point["mse"])
                    for each in WAYS
                    if not each.rounds
                }
                yield {"problems": source, "way": way.name, **point, **others, **about}


def same_error(curve: list[dict[str, float]], mse: float) -> float:
    """Attempts with which the curve comes to this error, between its points log in log; nan beyond them."""
    x = np.log([point["attempts"] for point in curve])
    y = np.log([point["mse"] for point in curve])
    return float(np.exp(np.interp(np.log(mse), y[::-1], x[::-1], left=np.nan, right=np.nan)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/estimators-{today}.csv")
    parser.add_argument(
        "--rates", type=Path, help="pass_rates.jsonl of a real student, many attempts a problem"
    )
    parser.add_argument("--quick", action="store_true", help="two repetitions of 60 problems")
    arguments = parser.parse_args()
    repetitions, problems, means = (2, 60, MEANS[:3]) if arguments.quick else (12, 600, MEANS)
    sources = {name: from_prior(a, b, problems) for name, (a, b) in PRIORS.items()}
    if arguments.rates is not None:
        sources["recorded"] = from_record(arguments.rates, problems)
    found = [
        {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
        for row in rows(sources, means, repetitions)
    ]
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
