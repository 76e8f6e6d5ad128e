"""The embedded engine is given other weights of the same model: it takes them in place, and is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paced_megatron.errors import UserError
from paced_megatron.rollout import embedded
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.rollout.engine import Request, Sampling
from tiny_models import make_tiny_qwen3

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8)
REQUESTS = [Request("p", index, (70, 71, 72), 100 + index) for index in range(4)]


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied"])
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """Two models of one kind, of seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("models")
    one = make_tiny_qwen3(folder / "one", seed=1, tie_word_embeddings=request.param)
    return one, make_tiny_qwen3(folder / "two", seed=2, tie_word_embeddings=request.param)


def drawn(engine: EmbeddedEngine) -> list[tuple[int, ...]]:
    return [completion.token_ids for unit in engine.generate(REQUESTS, SAMPLING) for completion in unit]


def fresh(folder: Path) -> list[tuple[int, ...]]:
    engine = EmbeddedEngine(batch_size=4)
    engine.load_weights(folder, "fresh")
    return drawn(engine)


def test_other_weights_of_the_same_model_are_taken_without_loading_it_anew(folders, monkeypatch):
    engine = EmbeddedEngine(batch_size=4)
    engine.load_weights(folders[0], "one")
    monkeypatch.setattr(embedded, "_load", lambda *_: pytest.fail("the model was loaded anew"))
    engine.sleep()
    engine.load_weights(folders[1], "two")
    monkeypatch.undo()
    assert engine.weight_version == "two"
    assert drawn(engine) == fresh(folders[1]) != fresh(folders[0])


@pytest.mark.parametrize("change", ["config.json", "generation_config.json", "a weight too few"])
def test_a_folder_of_another_kind_is_loaded_anew(folders, tmp_path, change, monkeypatch):
    other = shutil.copytree(folders[1], tmp_path / "other")
    if change.endswith(".json"):
        settings = json.loads((other / change).read_text())
        (other / change).write_text(json.dumps(settings | {"pad_token_id": settings["eos_token_id"]}))
    else:
        weights = load_file(other / "model.safetensors")
        weights.pop("model.norm.weight")
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    engine = EmbeddedEngine(batch_size=4)
    engine.load_weights(folders[0], "one")
    loaded = []
    original = embedded._load
    monkeypatch.setattr(embedded, "_load", lambda *which: loaded.append(which) or original(*which))
    if change == "a weight too few":
        with pytest.raises(UserError, match=r"model\.norm\.weight"):
            engine.load_weights(other, "other")
    else:
        engine.load_weights(other, "other")
    assert len(loaded) == 1
    if change.endswith(".json"):
        assert drawn(engine) == fresh(other)


def test_one_weight_that_is_not_the_files_is_found(folders):
    engine = EmbeddedEngine(batch_size=4)
    engine.load_weights(folders[0], "stage-1 step-3")
    engine.check_weights(folders[0])
    with pytest.raises(UserError, match=r"stage-1 step-3.*draws from other weights"):
        engine.check_weights(folders[1])
    assert engine._loaded is not None
    with torch.no_grad():
        engine._loaded.model.model.norm.weight[3] += 1e-6
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        engine.check_weights(folders[0])
