"""What the tests of this room share: a tiny random Qwen3, and requests whose prompts differ in length."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from paced_megatron.rollout import Request, attempt_requests
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
