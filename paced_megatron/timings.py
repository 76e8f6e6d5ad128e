"""timings.jsonl: what each piece of a run's work took, in seconds and tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from paced_megatron.runtime.files import append_lines, read_jsonl


@dataclass(frozen=True)
class Timing:
    """A line of timings.jsonl: one piece of work, from where it began or went on to where it ended.

    Work that was killed leaves no line, and what went on after it has a line for its own part; add up the
    lines of a file. Training is not among them: each line of metrics.jsonl has the seconds of its step.

    Attributes:
        phase: "attempts", "responses", "rollouts" (of one on-policy step), "evaluation", "strata",
            "attempts_after" or "forgetting" (a task of lm-eval, of which no tokens are counted).
        stage: from 1.
        file: what was written, from the run's folder, as "stage-1/attempts.jsonl".
        seconds: by the clock, loading the model included.
        tokens, attempts: generated in this piece; prompts are not counted.
    """

    phase: str
    stage: int
    file: str
    seconds: float
    tokens: int
    attempts: int


def append_timing(path: Path, timing: Timing) -> None:
    """Add a line; it is on the disk when this returns. A line that a kill has torn is cut off before."""
    read_jsonl(path, cut_torn_tail=True)
    append_lines(path, [json.dumps(asdict(timing))])


def read_timings(path: Path) -> list[Timing]:
    """The lines of the file; none where there is no file. A torn last line is left out."""
    return [Timing(**record) for record in read_jsonl(path)]


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Yield a list that holds the block's seconds once it has ended."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)
