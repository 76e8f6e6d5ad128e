"""Servers that die, stumble and lie: a rollout ends well all the same, with each attempt exactly once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fault_proxy import ABORTED, FAULTS, FaultProxy, fault_proxy
from paced_megatron.errors import UserError
from paced_megatron.rollout import Attempt, read_attempts
from paced_megatron.rollout.sglang import launcher
from paced_megatron.rollout.sglang.engine import SGLangEngine
from sglang.rollouts import DRAWN, GREEDY, check_file, engine_on, roll_out, some_requests
from sglang_server import STARTUP_S, Server
from small_disk import remount, small_disk
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(2 * STARTUP_S + 120)]

Restart = Callable[[], Server]


@pytest.fixture(scope="module")
def behind_a_proxy(tiny_server) -> Iterator[tuple[FaultProxy, SGLangEngine]]:
    with (
        fault_proxy(tiny_server.url) as proxy,
        engine_on([proxy.url], tiny_server.folder, concurrency=8, request_timeout_s=2.0) as engine,
    ):
        yield proxy, engine


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_fault_spoils_is_asked_for_again_and_recorded_once(behind_a_proxy, tmp_path, fault):
    proxy, engine = behind_a_proxy
    proxy.done.clear()
    proxy.plan([None, fault, fault])  # some attempts are done when it begins
    requests = some_requests(5)
    roll_out(engine, requests, tmp_path / "attempts.jsonl")
    assert proxy.done == {fault: 2}


def test_the_proxy_aborts_as_the_server_does(tiny_server):
    """The shape of a real abort, in the middle of a long answer."""
    long = {"max_new_tokens": 400, "temperature": 1.0, "ignore_eos": True}
    answers: list[dict] = []
    body = {"input_ids": [5, 6, 7], "sampling_params": long}
    asking = threading.Thread(target=lambda: answers.append(tiny_server.post("/generate", body)))
    asking.start()
    while asking.is_alive():
        time.sleep(0.02)
        launcher.ServerClient(tiny_server.url).post("/abort_request", {"abort_all": True})
    asking.join()
    (answer,) = answers
    assert answer["meta_info"]["finish_reason"] == ABORTED
    assert len(answer["output_ids"]) == answer["meta_info"]["completion_tokens"] < 400


@pytest.fixture(scope="module")
def victim(sglang_server, sglang_launch, tmp_path_factory) -> Iterator[Server]:
    """A server that may be killed, on weights that are not those of the rollouts."""
    server = sglang_server(make_tiny_qwen3(tmp_path_factory.mktemp("victim") / "old", seed=42))
    yield server
    server.stop()


@pytest.fixture
def restart(victim, sglang_server, monkeypatch) -> Restart:
    """Start the server again, on its port and its old weights, as a person would."""
    port = int(victim.url.rpartition(":")[2])

    def again() -> Server:
        monkeypatch.setattr(launcher, "free_port", lambda: port)
        return sglang_server(victim.folder)

    return again


def kill(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()


def greedy_truth(folder: Path, attempt_prompt: tuple[int, ...]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = torch.tensor([attempt_prompt])
    made = model.generate(prompt, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
    return made[0, len(attempt_prompt) :].tolist()


def test_the_only_server_is_killed_and_comes_back_with_old_weights_and_all_attempts_are_of_the_new(
    victim, restart, tmp_path
):
    new = make_tiny_qwen3(tmp_path / "new", seed=43)
    requests, said, again = some_requests(6), [], []

    def on_progress(done: int, total: int, attempts: list[Attempt]) -> None:
        if not again:
            assert 0 < done < total  # there is something left to lose
            kill(victim)
            again.append(threading.Thread(target=restart))
            again[0].start()

    with engine_on([victim.url], new, said.append, concurrency=4) as engine:
        attempts = roll_out(engine, requests, tmp_path / "attempts.jsonl", GREEDY, on_progress)
    again[0].join()
    assert any("left out" in line for line in said) and any("answers again" in line for line in said)
    for request in requests[:6]:
        texts = {attempt.token_ids for attempt in attempts if attempt.problem_id == request.problem_id}
        assert texts == {tuple(greedy_truth(new, request.prompt_ids))}


def serving(folder: Path) -> list[launcher.psutil.Process]:
    """The main process of a server that runs on `folder`, and those below it."""
    found = launcher.psutil.process_iter(["cmdline"])
    return [p for p in found if str(folder) in (p.info["cmdline"] or []) and launcher.runs(p)]


def test_one_of_two_servers_is_killed_and_the_other_makes_the_rest(victim, restart, tiny_server, tmp_path):
    if not serving(victim.folder):  # the test before has left it running again, where it was run
        restart()
    requests, said, killed = some_requests(40), [], []
    serves = serving(victim.folder)[0]

    def on_progress(done: int, total: int, attempts: list[Attempt]) -> None:
        if not killed and done >= 20:
            assert done < total
            serves.kill()
            killed.append(done)

    with engine_on([tiny_server.url, victim.url], tiny_server.folder, said.append, concurrency=4) as engine:
        roll_out(engine, requests, tmp_path / "attempts.jsonl", DRAWN, on_progress)
    assert killed
    assert any(victim.url in line and "left out" in line for line in said), said


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "8k") as mounted:
        yield mounted


def test_a_full_disk_ends_the_rollout_and_it_goes_on_when_there_is_room(tiny_server, disk, tmp_path):
    path, requests = disk / "attempts.jsonl", some_requests(16)
    with engine_on([tiny_server.url], tiny_server.folder, concurrency=8) as engine:
        with pytest.raises(UserError, match=f"{path}: the disk is full"):
            roll_out(engine, requests, path)
        kept = read_attempts(path)  # whole lines
        assert 0 < len(kept) < len(requests)
        remount(disk, "size=1m")
        assert set(kept) <= set(roll_out(engine, requests, path))
    check_file(path, requests)
