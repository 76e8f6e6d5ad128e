"""Answers per second of the verifier, beside bare math-verify and an exact match; and what they have right.

    PYTHONPATH=. python benchmarks/verifier.py          # writes benchmarks/results/verifier-DATE.csv
    PYTHONPATH=. python benchmarks/verifier.py --quick  # a few problems: does it run at all

The attempts at a problem are its own answer as models write it and, as often, other problems' answers. Three
loads: `mixed` is all of them; `computed` those that their text does not settle, so that a worker has to
compute; `pairs` the hand-picked pairs of tests/problems/pairs.py, for the column `right`. Bare math-verify is
its parse() and verify() as its README has them, in one process, the problem's answer parsed anew each time,
as the trainers do that call it. `cpu_s` counts the workers and their start; on a busy machine
answers_per_cpu_s is the fairer one.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import logging
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from machine import about_this_run, busy_seconds

from paced_megatron.config import VerifierConfig
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.math_text import settle
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verify import Outcome, Verifier

ROOT = Path(__file__).resolve().parents[1]
PRINTED = ["load", "variant", "answers", "wall_s", "answers_per_s", "answers_per_cpu_s", "right"]
# Ways in which a model writes an answer that it has right.
STYLES: tuple[Callable[[str], str], ...] = (
    lambda answer: answer,
    lambda answer: answer.replace(r"\frac", r"\dfrac").replace(",", ", "),
    lambda answer: rf"\left({answer}\right)" if answer.isalnum() else answer.replace(" ", ""),
    lambda answer: answer + (r"\text{ units}" if answer.isdigit() else ""),
)


@dataclass(frozen=True)
class Pair:
    answer: str
    gold: str
    correct: bool | None = None  # where a person has said so

    @property
    def text(self) -> str:
        return rf"So the answer is $\boxed{{{self.answer}}}$."


def mixed(problems: Sequence[Problem]) -> list[Pair]:
    draw = random.Random(0)
    own = [Pair(style(p.answer), p.answer) for p in problems for style in STYLES]
    others = [
        Pair(other.answer, p.answer) for p in problems for other in draw.choices(problems, k=len(STYLES))
    ]
    return draw.sample(own + others, len(own) + len(others))


def hand_picked() -> list[Pair]:
    sys.path.insert(0, str(ROOT / "tests/problems"))
    from pairs import PAIRS

    return [Pair(*pair) for rows in PAIRS.values() for pair in rows]


def by_verifier(pairs: Sequence[Pair], workers: int) -> list[bool]:
    problems = [Problem(id=str(number), problem="", answer=pair.gold) for number, pair in enumerate(pairs)]
    with Verifier(VerifierConfig(workers=workers, timeout_s=30)) as verifier:
        outcomes = verifier.score_many([pair.text for pair in pairs], problems, ["stop"] * len(pairs))
    return [outcome is Outcome.CORRECT for outcome in outcomes]


def by_math_verify(pairs: Sequence[Pair]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(rf"\boxed{{{pair.gold}}}"), parse(pair.text))) for pair in pairs]


def by_text(pairs: Sequence[Pair]) -> list[bool]:
    return [pair.answer == pair.gold for pair in pairs]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(judge: Callable[[Sequence[Pair]], list[bool]], pairs: Sequence[Pair]) -> dict[str, object]:
    started, cpu, busy = time.perf_counter(), cpu_seconds(), busy_seconds()
    verdicts = judge(pairs)
    wall, used = time.perf_counter() - started, cpu_seconds() - cpu
    marked = [(verdict, pair.correct) for verdict, pair in zip(verdicts, pairs, strict=True)]
    known = [verdict == correct for verdict, correct in marked if correct is not None]
    return {
        "answers": len(pairs),
        "called_correct": sum(verdicts),
        "right": f"{sum(known)}/{len(known)}" if known else "",
        "wall_s": round(wall, 2),
        "cpu_s": round(used, 2),
        "answers_per_s": round(len(pairs) / wall, 1),
        "answers_per_cpu_s": round(len(pairs) / max(used, 0.01), 1),
        "load": round(os.getloadavg()[0], 2),
        "cores_of_others": round((busy_seconds() - busy - used) / wall, 2) if wall > 1 else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    day = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument(
        "--quick", action="store_true", help="5 problems instead of 500, 20 hand-picked pairs"
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("PACED_TEST_DATA"), help="has math500.jsonl"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bare", type=int, default=600, help="how many answers bare math-verify judges")
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/verifier-{day}.csv")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.data is None:
        parser.error("--data FOLDER, or PACED_TEST_DATA: the folder with math500.jsonl")
    problems = load_problems(options.data / "math500.jsonl", {"id": "unique_id"})[
        : 5 if options.quick else None
    ]
    everything = mixed(problems)
    computed = [pair for pair in dict.fromkeys(everything) if settle(pair.answer, pair.gold) is None]
    loads = {
        "mixed": everything,
        "computed": computed,
        "pairs": hand_picked()[: 20 if options.quick else None],
    }
    rows = []
    for load, pairs in loads.items():
        judges: dict[str, tuple[Callable[[Sequence[Pair]], list[bool]], Sequence[Pair]]] = {
            "exact": (by_text, pairs),
            "math_verify": (by_math_verify, pairs[: options.bare]),
            "verifier": (lambda pairs: by_verifier(pairs, options.workers), pairs),
        }
        for variant, (judge, some) in judges.items():
            row = {
                "load": load,
                "variant": variant,
                "workers": options.workers if variant == "verifier" else 0,
            }
            measured = measure(judge, some)
            rows.append(
                about_this_run("cpu")
                | {"math_verify": version("math-verify"), "machine_load": measured.pop("load")}
                | row
                | measured
            )
            print("  ".join(f"{key} {rows[-1][key]}" for key in PRINTED), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
