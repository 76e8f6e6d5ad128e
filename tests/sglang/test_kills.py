"""Our own process is killed at random moments and started again: each attempt is recorded exactly once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from loop.recipes import QUICKSTART, TRAIN_PROBLEMS, keys, start_paced, write_recipe
from paced_megatron.rollout import Request
from sglang.rollouts import check_file, engine_on, roll_out, some_requests
from sglang_server import STARTUP_S, Server

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 180)]

FULL_KILLS = os.environ.get("PACED_FULL_KILLS") == "1"
KILLS = 20 if FULL_KILLS else 3


def run(server: Server, requests: list[Request], path: Path) -> None:
    with engine_on([server.url], server.folder, lambda line: None, concurrency=4) as engine:
        roll_out(engine, requests, path)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_again_and_again_in_rollouts_it_ends_with_each_attempt_exactly_once(tiny_server, tmp_path):
    """The process is a fork of this one, which has imported everything; kills count that left work behind."""
    moments, path, requests = random.Random(61), tmp_path / "attempts.jsonl", some_requests(80)
    fork = multiprocessing.get_context("fork")
    seen = []
    while len(seen) < KILLS:
        before = lines(path)
        process = fork.Process(target=run, args=(tiny_server, requests, path), daemon=True)
        process.start()
        while process.is_alive() and lines(path) == before:  # it has begun to write
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it ended by itself, with {lines(path)} attempts made"
        assert before < lines(path) < len(requests)
        seen.append(lines(path))
    run(tiny_server, requests, path)
    check_file(path, requests)


@pytest.mark.skipif(not FULL_KILLS, reason="twenty starts of `paced`: set PACED_FULL_KILLS=1")
@pytest.mark.timeout(3600)
def test_paced_rollout_killed_twenty_times_ends_with_each_attempt_exactly_once(sglang_server, tmp_path):
    """As above with the whole command line, at any moment from its start on."""
    attempts = 64  # more than twenty starts can make
    recipe = write_recipe(tmp_path, rollout={"attempts": attempts, "max_new_tokens": 16})
    moments, path = random.Random(62), tmp_path / "run/stage-1/attempts.jsonl"
    server = sglang_server(QUICKSTART / "student")
    command = ["rollout", recipe, "rollout.engine=sglang", f"rollout.urls=[{server.url}]"]
    made = []
    for _ in range(KILLS):
        process = start_paced(*command, "rollout.concurrency=2")
        time.sleep(moments.uniform(0, 12))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        made.append(lines(path))
    assert len(set(made)) > KILLS / 4, "most kills came before the first attempt"
    process = start_paced(*command)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    recorded = keys(path)
    assert len(recorded) == len(set(recorded)) == TRAIN_PROBLEMS * attempts
    server.stop()
