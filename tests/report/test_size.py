"""A page that can be sent around: its size doesn't grow with the run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hand_made_runs import FAILURES, lines, write_stages
from paced_megatron.report import write_report

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


def _attempts(rates: dict[str, tuple[int, int]], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Three at each of the first LONG problems; what is shown of them, uncut, would be too much already."""
    for problem, (correct, _) in list(rates.items())[:LONG]:
        for index in range(3):
            yield {
                "problem_id": problem, "index": index, "token_ids": [1] * 10, "finish_reason": "stop",
                "text": f"<{rng.random()}> " * (TEXT // 20), "seed": 1, "weight_version": "v",
                "outcome": "correct" if index < correct else FAILURES[index],
            }  # fmt: skip
