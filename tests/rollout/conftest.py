"""What the tests of this room share: a tiny random Qwen3, requests whose prompts differ in length, and an
SGLang engine beside a stand-in for its server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from paced_megatron.config import RolloutConfig
from paced_megatron.rollout import Request, attempt_requests
from paced_megatron.rollout.sglang import client, member, pool
from paced_megatron.rollout.sglang.engine import SGLangEngine
from rollout.sglang_stand_in import StandIn
from tiny_models import make_tiny_qwen3


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 (context 512, float32) with its tokenizer; not to be changed."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("tiny"), seed=7)


@pytest.fixture(scope="session")
def uneven_requests(tiny: Path) -> list[Request]:
    """Ten requests, two for each of five prompts of 1 to some 40 tokens: batches hold several lengths."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    texts = {
        "one": "x",
        "two": "the cat",
        "three": "what is 10+10 and then?",
        "four": "ab",
        "five": "and in the " * 6,
    }
    prompts = {problem_id: tokenizer.encode(text) for problem_id, text in texts.items()}
    assert len({len(ids) for ids in prompts.values()}) == 5
    return attempt_requests(prompts, attempts=2, seed=11)


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with other values in a JSON file: changed("config.json", eos_token_id=3)."""

    def change(name: str, **values: Any) -> Path:
        folder = tmp_path / "changed"
        if not folder.exists():
            shutil.copytree(tiny, folder)
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | values))
        return folder

    return change


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait for the disk: for tests that write a file at every one of its lengths."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def server(tiny: Path) -> Iterator[StandIn]:
    """A stand-in for an SGLang server, on the tiny model."""
    with StandIn(tiny) as one:
        yield one


def _offer(clients: Any, folder: Path, version: str) -> None:
    for one in clients:
        one.post("/update_weights_from_disk", {"model_path": str(folder), "weight_version": version})


@pytest.fixture
def sglang_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and a weight sync that is its POST alone: a stand-in has no log-probabilities."""
    monkeypatch.setattr(member, "sync_weights", _offer)
    monkeypatch.setattr(member, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool, "ABORTED_PAUSE_S", 0.01)
    monkeypatch.setattr(pool, "LOOK_EVERY_S", 0.05)


@pytest.fixture
def engine_on(tiny: Path, tmp_path: Path, sglang_quickly: None) -> Iterator[Callable[..., SGLangEngine]]:
    """engine_on(url, ...) with the tiny model's weights, called v1; what it says is in `engine.said`."""
    made = []

    def make(*urls: str, load: bool = True, **keys: Any) -> SGLangEngine:
        said: list[str] = []
        config = RolloutConfig(engine="sglang", urls=list(urls), **keys)
        engine = SGLangEngine(config, student=tiny, teacher=tiny, logs=tmp_path / "logs", say=said.append)
        engine.said = said  # type: ignore[attr-defined]
        made.append(engine)
        if load:
            engine.load_weights(tiny, "v1")
        return engine

    yield make
    for engine in made:
        engine.close()
