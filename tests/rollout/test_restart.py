"""A real model, killed and started again: the same file, bit for bit, as one that was never killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import Attempt, Request, Sampling, collect_attempts
from paced_megatron.rollout.embedded import EmbeddedEngine

SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=-1, max_new_tokens=8)
BATCH_SIZE = 3


class Killed(BaseException):
    pass


def decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def score(texts: Sequence[str], ids: Sequence[str], reasons: Sequence[str]) -> list[Outcome]:
    return [Outcome.TRUNCATED if reason == "length" else Outcome.INCORRECT for reason in reasons]


def roll_out(tiny: Path, requests: list[Request], path: Path, kill_after: int | None = None) -> list[Attempt]:
    """One start of a process: an engine of its own, and a random state in which something else has drawn."""
    torch.manual_seed(kill_after or 0)
    units = 0

    def on_progress(done: int, total: int, new: list[Attempt]) -> None:
        nonlocal units
        units += 1
        torch.rand(units)
        if units == kill_after:
            raise Killed

    engine = EmbeddedEngine(BATCH_SIZE)
    engine.load_weights(tiny, "step-0")
    return collect_attempts(engine, requests, SAMPLING, score, decode, path, on_progress)


@pytest.fixture(scope="module")
def never_killed(
    tiny: Path, uneven_requests: list[Request], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Attempt], bytes]:
    path = tmp_path_factory.mktemp("never_killed") / "attempts.jsonl"
    return roll_out(tiny, uneven_requests, path), path.read_bytes()


@pytest.mark.parametrize("kill_after", [1, 2, 3, 4])
def test_killed_between_two_batches_it_ends_with_the_same_bytes(
    tiny: Path,
    uneven_requests: list[Request],
    tmp_path: Path,
    never_killed: tuple[list[Attempt], bytes],
    kill_after: int,
) -> None:
    path = tmp_path / "attempts.jsonl"
    with pytest.raises(Killed):
        roll_out(tiny, uneven_requests, path, kill_after)
    assert path.read_bytes().count(b"\n") == min(BATCH_SIZE * kill_after, 10)
    assert (roll_out(tiny, uneven_requests, path), path.read_bytes()) == never_killed


@pytest.mark.parametrize("share", [0.0, 0.08, 0.33, 0.5, 0.72, 0.999])
def test_killed_in_the_middle_of_a_write_it_ends_with_the_same_bytes(
    tiny: Path,
    uneven_requests: list[Request],
    tmp_path: Path,
    never_killed: tuple[list[Attempt], bytes],
    share: float,
) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_bytes(never_killed[1][: int(share * len(never_killed[1]))])
    assert (roll_out(tiny, uneven_requests, path), path.read_bytes()) == never_killed


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    tiny: Path, uneven_requests: list[Request], tmp_path: Path, never_killed: tuple[list[Attempt], bytes]
) -> None:
    path = tmp_path / "attempts.jsonl"
    for kill_after in (1, 2, 2, 2):  # from the second start on, the first call tells what was there
        with pytest.raises(Killed):
            roll_out(tiny, uneven_requests, path, kill_after)
    assert (roll_out(tiny, uneven_requests, path), path.read_bytes()) == never_killed
