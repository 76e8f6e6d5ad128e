"""What computes on the CPU does so on a machine with a GPU too, and leaves it alone.

There is none here: torch is made to say that there is one, and whoever then really turns to it fails. So this
finds what would start CUDA; what CUDA would then have done is for tests/gpu.
"""

from __future__ import annotations

from typing import NoReturn

import pytest
import torch

from paced_megatron.cli import main
from paced_megatron.models.hidden_states import megatron_states, transformers_states
from paced_megatron.rollout import Request, Sampling
from paced_megatron.rollout.embedded import EmbeddedEngine
from tiny_models import make_tiny_qwen3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model's folder; and from then on a GPU that must not be touched."""
    made = make_tiny_qwen3(tmp_path / "model", seed=21)

    def touched(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    return made


def test_a_conversion_both_ways_with_its_checks_stays_on_the_cpu(folder, tmp_path):
    assert main(["convert", "to-megatron", str(folder), str(tmp_path / "checkpoint"), "--verify"]) == 0
    assert main(["convert", "to-hf", str(tmp_path / "checkpoint"), str(tmp_path / "again"), "--verify"]) == 0


def test_hidden_states_of_both_libraries_are_made_on_the_cpu(folder):
    texts = [[1, 2, 3, 4, 5], [6, 7, 8]]
    ours, theirs = megatron_states(folder, texts), transformers_states(folder, texts)
    for one, other in zip((*ours.texts, ours.head), (*theirs.texts, theirs.head), strict=True):
        assert one.device.type == other.device.type == "cpu"
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_engine_on_the_cpu_draws_there(folder):
    engine = EmbeddedEngine(2, "cpu")
    engine.load_weights(folder, "v1")
    requests = [Request("p", number, (1, 2, 3), number) for number in range(3)]
    units = list(engine.generate(requests, Sampling(1.0, 1.0, -1, 4)))
    engine.sleep()
    assert sum(len(unit) for unit in units) == 3
