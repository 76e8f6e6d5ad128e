"""Deterministic mode: the same seeds give the same attempts, and K attempts need K seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from paced_megatron.errors import UserError
from paced_megatron.rollout import Request
from paced_megatron.rollout.sglang.engine import SGLangEngine
from sglang.rollouts import DRAWN, engine_on, roll_out, some_requests
from sglang_server import STARTUP_S, Server
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 120)]

# Later flags win: the mode itself refuses torch_native, which is all that runs on the CPU.
DETERMINISTIC = [
    *("--enable-deterministic-inference", "--attention-backend", "triton"),
    *("--prefill-attention-backend", "torch_native", "--decode-attention-backend", "torch_native"),
]


@pytest.fixture(scope="module")
def server(sglang_server, tmp_path_factory) -> Iterator[Server]:
    server = sglang_server(make_tiny_qwen3(tmp_path_factory.mktemp("tiny"), seed=51), *DETERMINISTIC)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def engine(server) -> Iterator[SGLangEngine]:
    with engine_on([server.url], server.folder) as engine:
        yield engine


def drawn(engine: SGLangEngine, requests: list[Request], path) -> dict[tuple[str, int], tuple[int, ...]]:
    return {attempt.key: attempt.token_ids for attempt in roll_out(engine, requests, path, DRAWN)}


def test_the_same_seeds_give_the_same_attempts_alone_and_among_others(engine, tmp_path):
    requests = some_requests(6)
    together = drawn(engine, requests, tmp_path / "together.jsonl")
    assert len(set(together.values())) == len(requests)  # and other seeds give others
    assert drawn(engine, requests[::-1], tmp_path / "in-another-order.jsonl") == together
    for number in (0, 7, 23):
        alone = drawn(engine, [requests[number]], tmp_path / f"alone-{number}.jsonl")
        assert alone == {requests[number].key: together[requests[number].key]}


def test_another_seed_gives_another_attempt_at_the_same_prompt(engine, tmp_path):
    (request,) = some_requests(1, attempts=1)
    other = replace(request, seed=request.seed + 1)
    assert drawn(engine, [request], tmp_path / "one.jsonl") != drawn(engine, [other], tmp_path / "two.jsonl")


def test_equal_seeds_for_two_attempts_at_a_problem_are_refused_before_anything_is_asked(engine, tmp_path):
    first, *others = some_requests(1)
    path = tmp_path / "attempts.jsonl"
    with pytest.raises(UserError, match=rf"attempts 0 and 1 have the seed {first.seed} both"):
        roll_out(engine, [first, replace(others[0], seed=first.seed), *others[1:]], path)
    assert not path.exists()
