"""The logic of going on where a run was killed, with an engine that needs no model."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import (
    Attempt,
    Completion,
    Request,
    Sampling,
    attempt_requests,
    collect_attempts,
    read_attempts,
)

REQUESTS = attempt_requests({"a": [1], "b": [2, 3], "c": [4]}, attempts=3, seed=8)
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=4)


class BatchEngine:
    """Like the embedded engine: fixed batches, redone whole, and tokens that follow from the seeds."""

    def __init__(self, batch_size: int = 4, version: str = "v1") -> None:
        self.weight_version = version
        self.batch_size = batch_size
        self.generated: list[tuple[str, int]] = []

    def load_weights(self, folder: Path, version: str) -> None:
        self.weight_version = version

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, skip: Collection[tuple[str, int]] = ()
    ) -> Iterator[list[Completion]]:
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            if not all(request.key in skip for request in batch):
                yield [self.complete(request) for request in batch]

    def complete(self, request: Request) -> Completion:
        self.generated.append(request.key)
        ids = tuple(random.Random(request.seed).choices(range(100), k=3))
        return Completion(request, ids, "stop" if ids[0] % 2 else "length", request.seed, self.weight_version)

    def close(self) -> None:
        pass


class SingleEngine(BatchEngine):
    """Like a server: single completions, in whatever order they are ready, only those that are missing."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, skip: Collection[tuple[str, int]] = ()
    ) -> Iterator[list[Completion]]:
        missing = [request for request in requests if request.key not in skip]
        random.Random(len(missing)).shuffle(missing)
        for request in missing:
            yield [self.complete(request)]


def decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def score_one(text: str, problem_id: str, finish_reason: str) -> Outcome:
    if finish_reason == "length":
        return Outcome.TRUNCATED
    return Outcome.CORRECT if problem_id == "a" else Outcome.INCORRECT


def score(texts: Sequence[str], ids: Sequence[str], reasons: Sequence[str]) -> list[Outcome]:
    return [score_one(*attempt) for attempt in zip(texts, ids, reasons, strict=True)]


def collect(engine: BatchEngine, path: Path, requests: Sequence[Request] = REQUESTS, **more) -> list[Attempt]:  # type: ignore[no-untyped-def]
    return collect_attempts(engine, requests, SAMPLING, score, decode, path, **more)


def test_there_is_one_attempt_per_request_in_their_order_and_the_file_has_the_same(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    attempts = collect(SingleEngine(), path)
    assert [attempt.key for attempt in attempts] == [request.key for request in REQUESTS]
    recorded = read_attempts(path)
    assert recorded != attempts and sorted(recorded, key=str) == sorted(attempts, key=str)
    for request, attempt in zip(REQUESTS, attempts, strict=True):
        assert attempt.text == decode(attempt.token_ids)
        assert attempt.outcome == score_one(attempt.text, attempt.problem_id, attempt.finish_reason)
        assert (attempt.seed, attempt.weight_version) == (request.seed, "v1")
    assert {attempt.outcome for attempt in attempts} == {
        Outcome.TRUNCATED,
        Outcome.CORRECT,
        Outcome.INCORRECT,
    }


def test_killed_in_the_middle_of_any_write_a_second_start_gives_the_same_file(
    tmp_path: Path, no_fsync: None
) -> None:
    requests, path = REQUESTS[:4], tmp_path / "attempts.jsonl"
    attempts = collect(BatchEngine(batch_size=2), path, requests)
    content = path.read_bytes()
    for length in range(content.index(b"\n") + 1, len(content)):  # in all records but the first
        path.write_bytes(content[:length])
        engine = BatchEngine(batch_size=2)
        assert collect(engine, path, requests) == attempts, length
        assert path.read_bytes() == content, length
        batches_done = content[:length].count(b"\n") // 2
        assert engine.generated == [request.key for request in requests[2 * batches_done :]], length


def test_an_engine_without_batches_is_asked_for_the_missing_only_and_doubles_none(
    tmp_path: Path, no_fsync: None
) -> None:
    requests, path = REQUESTS[:3], tmp_path / "attempts.jsonl"
    attempts = collect(SingleEngine(), path, requests)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        engine = SingleEngine()
        assert collect(engine, path, requests) == attempts, length
        assert sorted(path.read_bytes().split(b"\n")) == sorted(content.split(b"\n")), length
        assert len(engine.generated) == len(requests) - content[:length].count(b"\n"), length


@pytest.mark.parametrize("engine_type", [BatchEngine, SingleEngine])
def test_stopped_after_any_unit_a_second_start_goes_on_from_there(
    tmp_path: Path, engine_type: type[BatchEngine]
) -> None:
    attempts = collect(engine_type(), tmp_path / "whole.jsonl")
    units = 3 if engine_type is BatchEngine else len(REQUESTS)
    for stop_after in range(1, units + 1):
        path = tmp_path / f"{stop_after}.jsonl"
        calls: list[int] = []

        def stop(
            done: int, total: int, new: list[Attempt], calls: list[int] = calls, at: int = stop_after
        ) -> None:
            calls.append(done)
            if len(calls) == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collect(engine_type(), path, on_progress=stop)
        assert len(read_attempts(path)) == calls[-1]  # what was shown as done is on the disk
        second = engine_type()
        assert collect(second, path) == attempts
        assert len(second.generated) == len(REQUESTS) - calls[-1]


def test_a_unit_whose_scoring_fails_is_not_recorded_in_part(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"

    def failing_score(texts: Sequence[str], ids: Sequence[str], reasons: Sequence[str]) -> list[Outcome]:
        if "c" in ids:
            raise RuntimeError("scoring broke")
        return [Outcome.INCORRECT for _ in texts]

    with pytest.raises(RuntimeError, match="scoring broke"):
        collect_attempts(BatchEngine(), REQUESTS, SAMPLING, failing_score, decode, path)
    assert len(read_attempts(path)) == 4  # the second batch holds b/1, b/2, c/0, c/1


def test_as_many_outcomes_as_attempts_or_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    with pytest.raises(RuntimeError, match="3 outcomes for 4 attempts"):
        collect_attempts(BatchEngine(), REQUESTS, SAMPLING, lambda *unit: score(*unit)[1:], decode, path)
    assert not path.exists()


def test_progress_counts_up_to_the_total_and_hands_over_every_attempt_once(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    seen: list[tuple[int, int, list[tuple[str, int]]]] = []

    def note(done: int, total: int, new: list[Attempt]) -> None:
        seen.append((done, total, [attempt.key for attempt in new]))

    attempts = collect(BatchEngine(), path, on_progress=note)
    keys = [attempt.key for attempt in attempts]
    assert seen == [(4, 9, keys[:4]), (8, 9, keys[4:8]), (9, 9, keys[8:])]

    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))
    seen.clear()
    collect(BatchEngine(), path, on_progress=note)  # what an earlier run left comes first
    assert seen == [(6, 9, keys[:6]), (8, 9, keys[6:8]), (9, 9, keys[8:])]


def test_with_everything_recorded_the_engine_is_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    attempts = collect(BatchEngine(), path)
    engine = BatchEngine()
    assert collect(engine, path) == attempts
    assert engine.generated == []


def test_attempts_of_other_weights_in_the_file_are_refused_by_both_names(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    collect(BatchEngine(version="stage-1"), path, REQUESTS[:4])
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"attempts\.jsonl: attempt 0 of problem a .* 'stage-1'.* 'stage-2'"):
        collect(BatchEngine(version="stage-2"), path)
    assert path.read_bytes() == before


def test_a_completion_of_other_weights_than_the_engines_is_refused_and_not_recorded(tmp_path: Path) -> None:
    class StaleEngine(BatchEngine):
        def complete(self, request: Request) -> Completion:
            version = "stale" if request.key == ("b", 2) else self.weight_version
            return Completion(request, (1,), "stop", request.seed, version)

    path = tmp_path / "attempts.jsonl"
    with pytest.raises(UserError, match=r"attempt 2 of problem b was made by weights 'stale', but .* 'v1'"):
        collect(StaleEngine(), path)
    assert len(read_attempts(path)) == 4


@pytest.mark.parametrize("requests", [REQUESTS[:6], [r for r in REQUESTS if r.index < 2]])
def test_attempts_that_are_not_asked_for_any_more_are_refused(
    tmp_path: Path, requests: list[Request]
) -> None:
    path = tmp_path / "attempts.jsonl"
    collect(BatchEngine(), path)
    with pytest.raises(UserError, match="is not among the 6 asked for"):
        collect(BatchEngine(), path, requests)


def test_an_engine_that_leaves_requests_out_is_found_out(tmp_path: Path) -> None:
    class LazyEngine(BatchEngine):
        def generate(self, requests, sampling, skip=()):  # type: ignore[no-untyped-def]
            return super().generate(requests[:7], sampling, skip)

    with pytest.raises(RuntimeError, match=r"left out 2 requests, the first is \('c', 1\)"):
        collect(LazyEngine(), tmp_path / "attempts.jsonl")


def test_an_engine_that_answers_twice_or_unasked_is_found_out_before_anything_is_written(
    tmp_path: Path,
) -> None:
    class EagerEngine(BatchEngine):
        def generate(self, requests, sampling, skip=()):  # type: ignore[no-untyped-def]
            yield [self.complete(requests[0]), self.complete(requests[0])]

    class StrayEngine(BatchEngine):
        def generate(self, requests, sampling, skip=()):  # type: ignore[no-untyped-def]
            yield [self.complete(Request("z", 0, (1,), 0))]

    path = tmp_path / "attempts.jsonl"
    for engine in (EagerEngine(), StrayEngine()):
        with pytest.raises(RuntimeError, match="twice, or one that was not asked for"):
            collect(engine, path)
        assert not path.exists()


def test_two_requests_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same problem id and index"):
        collect(BatchEngine(), tmp_path / "attempts.jsonl", [REQUESTS[0], REQUESTS[0]])
