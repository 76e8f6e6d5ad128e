"""A page that can be sent around: its size doesn't grow with the run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hand_made_runs import FAILURES, lines, write_stages
from paced_megatron.report import write_report
from paced_megatron.report.pictures.loss import _thinned

PROBLEMS, ATTEMPTS, STEPS, LONG, TEXT = 2000, 16, 3000, 50, 200_000
MOST_BYTES = 3_000_000


def test_a_page_of_thousands_of_problems_steps_and_long_attempts_stays_small(tmp_path: Path):
    """Two stages, pass rates all over the place, and every attempt longer than a page shows."""
    rng = random.Random(5)
    rates = [
        {f"problem-{number}": (rng.randint(0, ATTEMPTS), ATTEMPTS) for number in range(PROBLEMS)}
        for _ in range(3)
    ]
    folder = write_stages(tmp_path / "run", rates, steps=STEPS)
    lines(folder / "stage-1" / "attempts.jsonl", list(_attempts(rates[0], rng)))
    size = write_report(folder).stat().st_size
    assert size < MOST_BYTES / 2  # an experiment of arms and seeds has room too
    assert (folder / "stage-1" / "attempts.jsonl").stat().st_size > 5 * MOST_BYTES


def test_a_long_line_keeps_its_extremes_its_gaps_and_its_order():
    rng = random.Random(6)
    points: list[list[float | None]] = [[step, rng.gauss(0, 1)] for step in range(1, 5001)]
    points[1234][1] = None
    found = _thinned(points)
    assert len(found) < 700 < len(points)
    assert [1235, None] in found and [step for step, _ in found] == sorted(step for step, _ in found)
    values = [value for _, value in points if value is not None]
    assert {min(values), max(values)} < {value for _, value in found}
    assert _thinned(points[:600]) == points[:600]


def _attempts(rates: dict[str, tuple[int, int]], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Three at each of the first LONG problems; what is shown of them, uncut, would be too much already."""
    for problem, (correct, _) in list(rates.items())[:LONG]:
        for index in range(3):
            yield {
                "problem_id": problem, "index": index, "token_ids": [1] * 10, "finish_reason": "stop",
                "text": f"<{rng.random()}> " * (TEXT // 20), "seed": 1, "weight_version": "v",
                "outcome": "correct" if index < correct else FAILURES[index],
            }  # fmt: skip
