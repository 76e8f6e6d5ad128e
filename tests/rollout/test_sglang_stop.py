"""Asked to stop while a server is at it, or only starts: the engine lets its caller look, and what runs is
given up. Each attempt is recorded once, also when it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import Sampling, attempt_requests
from paced_megatron.rollout.attempts import Attempt, read_attempts
from paced_megatron.rollout.collect import collect_attempts
from paced_megatron.rollout.sglang.engine import SGLangEngine
from paced_megatron.runtime.signals import Stopped
from rollout.sglang_stand_in import StandIn

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=12)
REQUESTS = attempt_requests({"p": [5], "q": [6, 7]}, 4, seed=2)


def collect(engine: SGLangEngine, path: Path, on_progress: Callable[[int, int, Sequence[Attempt]], None]):
    return collect_attempts(
        engine,
        REQUESTS,
        SAMPLING,
        lambda texts, *_: [Outcome.CORRECT for _ in texts],
        lambda ids: str(list(ids)),
        path,
        on_progress,
    )


def test_while_a_server_hangs_the_caller_may_stop_and_a_second_start_makes_the_rest_once(
    engine_on: Callable[..., SGLangEngine], server: StandIn, tmp_path: Path
) -> None:
    server.faults.extend(["", "hangs"])
    engine, path, looks = engine_on(server.url, concurrency=2), tmp_path / "attempts.jsonl", []

    def stop(done: int, total: int, new: Sequence[Attempt]) -> None:
        looks.append(len(new))
        if len(looks) >= 3 and not new:  # nothing came for a while
            raise Stopped("SIGTERM", f"{done} of {total}")

    began = time.monotonic()
    with pytest.raises(Stopped, match=r"stopped by SIGTERM: \d of 8"):
        collect(engine, path, stop)
    assert time.monotonic() - began < 15
    kept = read_attempts(path) if path.exists() else []
    assert len(kept) < len(REQUESTS)
    made = collect(engine, path, lambda *_: None)
    assert made[: len(made)] and set(kept) <= set(made)
    assert sorted(attempt.key for attempt in read_attempts(path)) == sorted(one.key for one in REQUESTS)


def test_while_no_server_is_ready_the_engine_asks_whether_to_stop(
    engine_on: Callable[..., SGLangEngine], server: StandIn
) -> None:
    engine = engine_on(server.url)
    for member in engine._members:
        member.trouble = "it is gone"

    def check() -> None:
        raise Stopped("SIGUSR1", "what was made before is kept")

    engine._check = check
    with pytest.raises(Stopped, match="SIGUSR1"):
        engine.generate(REQUESTS, SAMPLING)
