"""Rollouts of a tiny model by our engine into an attempts file, as the tests of this folder want them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from loop.recipes import QUICKSTART
from paced_megatron.config import RolloutConfig
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout import Attempt, Request, Sampling, attempt_requests, collect_attempts
from paced_megatron.rollout.sglang.engine import SGLangEngine

ATTEMPTS = 4
VERSION = "stage-1"
DRAWN = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=24)
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=24)


def noisy_student(folder: Path) -> Path:
    """The quickstart's student with each weight a little off, in a new folder: other answers, and the same
    shapes, so that one server serves both."""
    folder.mkdir()
    for path in (QUICKSTART / "student").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(33)
    tensors = load_file(QUICKSTART / "student" / "model.safetensors")
    noisy = {
        name: (t.float() * (1 + 0.1 * torch.randn(t.shape, generator=generator))).to(t.dtype)
        for name, t in tensors.items()
    }
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def some_requests(problems: int, seed: int = 41, attempts: int = ATTEMPTS) -> list[Request]:
    """`attempts` at each of some prompts of 4 to 23 random tokens; first the first attempts at all of them,
    so that a problem's attempts lie apart in time."""
    generator = torch.Generator().manual_seed(seed)
    prompts = {
        f"problem-{number}": torch.randint(0, 256, (4 + number % 20,), generator=generator).tolist()
        for number in range(problems)
    }
    return sorted(attempt_requests(prompts, attempts, seed), key=lambda request: request.index)


@contextmanager
def engine_on(
    urls: Sequence[str], folder: Path, say: Callable[[str], object] = print, **keys: Any
) -> Iterator[SGLangEngine]:
    """An engine with the weights of `folder`, which it calls VERSION; `keys` are those of `rollout`."""
    rollout = RolloutConfig(engine="sglang", urls=list(urls), **keys)
    engine = SGLangEngine(rollout, student=folder, teacher=folder, logs=folder, say=say)
    with closing(engine):
        engine.load_weights(folder, VERSION)
        yield engine


def roll_out(
    engine: SGLangEngine,
    requests: Sequence[Request],
    path: Path,
    sampling: Sampling = DRAWN,
    on_progress: Callable[[int, int, list[Attempt]], None] = lambda done, total, new: None,
) -> list[Attempt]:
    """Each attempt in the file exactly once, which is checked, and returned."""
    attempts = collect_attempts(engine, requests, sampling, score, decode, path, on_progress)
    check_file(path, requests)
    return attempts


def check_file(path: Path, requests: Sequence[Request]) -> None:
    """The file has each (problem, k) exactly once, and nothing else."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line["weight_version"] == VERSION for line in lines)
    recorded = [(line["problem_id"], line["index"]) for line in lines]
    assert sorted(recorded) == sorted(request.key for request in requests)


def score(texts: Sequence[str], ids: Sequence[str], reasons: Sequence[str]) -> list[Outcome]:
    return [Outcome.TRUNCATED if reason == "length" else Outcome.INCORRECT for reason in reasons]


def decode(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))
