"""The SGLang engine against a stand-in: every attempt once, whatever the server does; and what it refuses.

Weight sync is cut short to its POST here: the stand-in has no model whose log-probabilities could be
compared. tests/sglang/test_weights.py has the whole of it, with a real server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paced_megatron.errors import UserError
from paced_megatron.rollout import Request, Sampling, attempt_requests
from paced_megatron.rollout.sglang import pool
from paced_megatron.rollout.sglang.engine import SGLangEngine
from rollout.sglang_stand_in import StandIn

SAMPLING = Sampling(temperature=0.7, top_p=0.9, top_k=20, max_new_tokens=4)
REQUESTS = attempt_requests({f"p{number}": [5 + number, 6, 7] for number in range(9)}, attempts=4, seed=3)


def collect(engine: SGLangEngine, requests: list[Request] = REQUESTS, **how: Any) -> dict[Any, Any]:
    """All completions by key; fails where one comes twice."""
    done: dict[Any, Any] = {}
    for unit in engine.generate(requests, SAMPLING, **how):
        for completion in unit:
            assert completion.request.key not in done
            done[completion.request.key] = completion
    return done


def test_every_attempt_comes_once_with_its_ids_its_seed_and_its_reason(
    tiny: Path, server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    done = collect(engine_on(server.url))
    assert done.keys() == {request.key for request in REQUESTS}
    for request in REQUESTS:
        completion = done[request.key]
        params = {"sampling_seed": request.seed, "max_new_tokens": 4}
        ends = server.asked("/generate")[0]["sampling_params"][0]["stop_token_ids"]
        expected = server.answer(list(request.prompt_ids), params | {"stop_token_ids": ends}, "x")
        assert completion.token_ids == tuple(expected["output_ids"])
        assert completion.seed == request.seed and completion.weight_version == "v1"
        # 4 tokens with an end last are a "length" to SGLang, and a "stop" to us.
        ended = completion.token_ids[-1] in ends
        assert completion.finish_reason == ("stop" if ended else "length")
    assert {c.finish_reason for c in done.values()} == {"stop", "length"}
    assert any(len(c.token_ids) == 4 and c.finish_reason == "stop" for c in done.values())


def test_the_server_is_told_all_that_decides_what_is_drawn(
    server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    collect(engine_on(server.url))
    (params, *_) = server.asked("/generate")[0]["sampling_params"]
    assert (params["temperature"], params["top_p"], params["top_k"], params["max_new_tokens"]) == (
        0.7,
        0.9,
        20,
        4,
    )
    assert (params["min_p"], params["repetition_penalty"], params["ignore_eos"]) == (0, 1, False)
    assert params["frequency_penalty"] == params["presence_penalty"] == 0


def test_only_what_is_not_recorded_is_asked_for(
    server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    recorded = {request.key for request in REQUESTS[:30]}
    assert collect(engine_on(server.url), skip=recorded).keys() == {r.key for r in REQUESTS[30:]}
    assert server.attempts() == 6


@pytest.mark.parametrize("concurrency", [None, 1, 7])
def test_no_more_attempts_are_in_flight_than_the_server_runs_or_the_key_says(
    server: StandIn, engine_on: Callable[..., SGLangEngine], concurrency: int | None
) -> None:
    server.delay_s = 0.01
    collect(engine_on(server.url, concurrency=concurrency))
    assert server.most_running == (concurrency or 4)


FAULTS = [
    "500",
    "503",
    "close",
    "cut",
    "no JSON",
    "abort",
    "bad id",
    "too short",
    "other weights",
    "twice",
    "one missing",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_fails_at_is_asked_again_and_comes_once(
    server: StandIn, engine_on: Callable[..., SGLangEngine], fault: str
) -> None:
    server.faults.extend([fault, "", fault, fault])
    done = collect(engine_on(server.url))
    assert done.keys() == {request.key for request in REQUESTS}
    assert not server.faults
    assert server.attempts() > len(REQUESTS) or fault == "twice"
    assert {completion.weight_version for completion in done.values()} == {"v1"}


def test_a_request_that_never_ends_is_given_up_and_made_again(
    server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    server.faults.append("hangs")
    assert len(collect(engine_on(server.url, request_timeout_s=0.3))) == len(REQUESTS)
    hung = server.asked("/generate")[0]["rid"]
    assert {body["rid"] for body in server.asked("/abort_request")} >= set(hung)


@pytest.mark.parametrize("fault", ["400", "error event"])
def test_what_a_server_refuses_is_not_asked_again_and_said_with_the_problem_and_the_server_s_words(
    server: StandIn, engine_on: Callable[..., SGLangEngine], fault: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(UserError, match=r"refuses attempt \d of problem p\d .*temperature=0\.7.*told to"):
        collect(engine_on(server.url, concurrency=1))
    assert len(server.asked("/generate")) == 1


def test_an_attempt_that_fails_again_and_again_ends_the_run(
    server: StandIn, engine_on: Callable[..., SGLangEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MOST_TRIES", 3)
    server.faults.extend(["500"] * 50)
    with pytest.raises(UserError, match=r"attempt 0 of problem p0 failed 3 times: .* 500"):
        collect(engine_on(server.url, concurrency=1))


def test_a_server_that_was_started_again_gets_the_weights_again(
    server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    engine = engine_on(server.url)
    first = server.model["weight_version"]
    assert first.startswith("v1-")
    units = engine.generate(REQUESTS, SAMPLING)
    got = len(next(filter(None, units)))  # the first that is not empty
    server.model["weight_version"] = "default"  # as after a start; the connection may not even have broken
    assert got + sum(map(len, units)) == len(REQUESTS)
    assert server.model["weight_version"] == first
    assert len(server.asked("/update_weights_from_disk")) == 2


def test_weights_of_the_same_version_from_elsewhere_are_not_taken_for_ours(
    tiny: Path, server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    engine, other = engine_on(server.url), engine_on(server.url)  # two runs that know of no other
    assert len(collect(other)) == len(REQUESTS)
    assert len(collect(engine)) == len(REQUESTS)
    versions = [body["weight_version"] for body in server.asked("/update_weights_from_disk")]
    assert len(set(versions)) == 2 and versions[2] == versions[0]


def test_the_only_server_goes_and_comes_back_and_meanwhile_the_engine_says_that_it_waits(
    server: StandIn, engine_on: Callable[..., SGLangEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paced_megatron.rollout.sglang.engine.SAY_EVERY_S", 0.2)
    server.faults.extend(["", "hangs"])
    engine = engine_on(server.url)
    back = threading.Timer(1.0, server.start)
    done = 0
    for unit in filter(None, engine.generate(REQUESTS, SAMPLING)):
        if done == 0:
            server.stop()
            back.start()
        done += len(unit)
    assert done == len(REQUESTS)
    said = "\n".join(engine.said)  # type: ignore[attr-defined]
    assert f"no SGLang server is left; waiting for one to answer again ({server.url}: " in said
    assert f"{server.url} answers again" in said


def test_of_two_servers_one_dies_and_the_other_makes_what_is_left(
    tiny: Path, server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    with StandIn(tiny) as other:
        server.delay_s = other.delay_s = 0.01
        engine, done = engine_on(server.url, other.url), 0
        for unit in engine.generate(REQUESTS, SAMPLING):
            if done == 0:
                server.stop()
            done += len(unit)
        assert done == len(REQUESTS)
        assert other.attempts() > 8
        assert any(server.url in line and "left out" in line for line in engine.said)  # type: ignore


def test_two_servers_share_the_attempts(
    tiny: Path, server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    with StandIn(tiny) as other:
        server.delay_s = other.delay_s = 0.02
        assert len(collect(engine_on(server.url, other.url))) == len(REQUESTS)
        assert server.attempts() + other.attempts() == len(REQUESTS)
        assert min(server.attempts(), other.attempts()) >= 8


def test_when_nobody_wants_the_rest_what_runs_is_given_up(
    server: StandIn, engine_on: Callable[..., SGLangEngine]
) -> None:
    server.faults.extend(["", "hangs"])
    engine = engine_on(server.url, concurrency=2)
    before = threading.active_count()
    units = engine.generate(REQUESTS, SAMPLING)
    next(filter(None, units))
    deadline = time.monotonic() + 60
    while len(server.asked("/generate")) < 2 and time.monotonic() < deadline:  # the one that hangs
        time.sleep(0.01)
    threading.Timer(0.2, server.go_on.set).start()  # a server answers when it has aborted
    units.close()  # type: ignore[attr-defined]
    assert {body["rid"] for body in server.asked("/abort_request")}
    time.sleep(0.3)
    assert threading.active_count() <= before + 3  # the stand-in's own, one a connection
