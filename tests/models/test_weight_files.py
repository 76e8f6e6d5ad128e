"""A Hugging Face folder that is not what it should be: one line that names the file or the tensor."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from models.family_models import Variant, make_model
from paced_megatron.errors import UserError
from paced_megatron.models import weight_files
from paced_megatron.models.families import model_shape
from paced_megatron.models.weight_files import INDEX, SINGLE, WeightFiles, check_weights


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_model(tmp_path / "model", Variant("qwen2", False, torch.float32, sharded=False), seed=4)


@pytest.fixture
def sharded(tmp_path) -> Path:
    return make_model(tmp_path / "model", Variant("qwen2", False, torch.float32, sharded=True), seed=4)


def check(folder: Path) -> None:
    check_weights(folder, model_shape(folder))


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of the single file; None takes one out."""
    tensors = load_file(folder / SINGLE) | {name.replace("__", "."): t for name, t in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / SINGLE)


def test_a_missing_tensor_and_one_too_many_are_named(folder):
    check(folder)
    rewrite(folder, model__layers__2__self_attn__k_proj__bias=None)
    with pytest.raises(UserError, match=r"tensor model\.layers\.2\.self_attn\.k_proj\.bias is missing"):
        check(folder)
    rewrite(folder, model__layers__2__self_attn__k_proj__bias=torch.zeros(40), extra=torch.zeros(3))
    with pytest.raises(UserError, match="tensor extra has no place in the map"):
        check(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    rewrite(folder, model__layers__1__mlp__down_proj__weight=torch.zeros(88, 48))
    with pytest.raises(
        UserError, match=r"layers\.1\.mlp\.down_proj.*\[88, 48\].*config\.json says \[48, 88\]"
    ):
        check(folder)


def test_a_tensor_that_is_not_of_floating_point_numbers_is_named(folder):
    rewrite(folder, model__norm__weight=torch.zeros(48, dtype=torch.int8))
    with pytest.raises(UserError, match=r"model\.norm\.weight is stored as I8; bring unquantised weights"):
        check(folder)


def test_a_tied_head_written_again_and_old_rope_tables_are_passed_over(tmp_path):
    folder = make_model(tmp_path / "model", Variant("llama", True, torch.float32, sharded=False), seed=4)
    embedding = load_file(folder / SINGLE)["model.embed_tokens.weight"]
    rewrite(
        folder,
        lm_head__weight=embedding.double(),
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(5),
    )
    check(folder)


def test_a_stored_head_that_is_not_the_embedding_it_should_be_tied_to_is_refused(tmp_path):
    """transformers takes it for the head, in spite of config.json."""
    folder = make_model(tmp_path / "model", Variant("qwen3", True, torch.float32, sharded=False), seed=4)
    embedding = load_file(folder / SINGLE)["model.embed_tokens.weight"]
    rewrite(folder, lm_head__weight=embedding.to(torch.float8_e4m3fn))
    with pytest.raises(UserError, match=r"lm_head\.weight is not the embedding"):
        check(folder)
    head = embedding.clone()
    head[300, 47] += 1
    rewrite(folder, lm_head__weight=head)
    with pytest.raises(UserError, match=r"lm_head\.weight is not the embedding.*tie_word_embeddings=true"):
        check(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(theirs.lm_head.weight, head)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "quantised"),  # GPTQ, AWQ
        ("model.layers.0.mlp.up_proj.weight.absmax", "quantised"),  # bitsandbytes
        ("model.layers.0.mlp.up_proj.weight_scale", "quantised"),  # FP8
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter's"),
        ("model.layers.0.mlp.experts.7.up_proj.weight", "mixture of experts"),
    ],
)
def test_weights_of_another_kind_are_told_as_such_and_not_as_a_tensor_too_many(folder, name, told):
    rewrite(folder, **{name: torch.zeros(3), "a.first.one": torch.zeros(3)})
    with pytest.raises(UserError, match=rf"{re.escape(name)}: the weights are .*{told}"):
        check(folder)


def test_pickles_that_are_no_weights_are_not_said_to_be_some(folder):
    (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors")
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"neither model\.safetensors nor .*index\.json is here"):
        check(folder)


def test_a_file_that_may_not_be_read_is_not_said_to_be_missing(folder, monkeypatch):
    """The stand-in raises what safetensors raises then; root, who runs the tests, may read everything."""

    def safe_open(path, framework):
        raise FileNotFoundError(f"No such file or directory: {path}")

    monkeypatch.setattr(weight_files, "safe_open", safe_open)
    with pytest.raises(UserError, match=r"model\.safetensors: may not be read"):
        WeightFiles(folder)


def test_a_truncated_file_and_a_missing_one_are_named(folder):
    file = folder / SINGLE
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.safetensors: can't be read.*truncated"):
        check(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor.*index\.json is here"):
        check(folder)


def test_a_truncated_shard_and_a_missing_one_are_named(sharded):
    check(sharded)
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{shard.name}: can't be read.*truncated"):
        check(sharded)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name}: missing, though .*index\.json names it"):
        check(sharded)


def test_an_index_that_names_the_wrong_shard_is_told(sharded):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = index["weight_map"]["model.embed_tokens.weight"]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(
        UserError, match=r"tensor model\.norm\.weight is missing, though .*says that it is here"
    ):
        check(sharded)


def test_a_tensor_in_two_shards_is_told_with_both(sharded):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    tensors = load_file(second)
    name = min(load_file(first))
    save_file(tensors | {name: torch.zeros(3)}, second)
    with pytest.raises(UserError, match=rf"{second.name}: tensor {name} is here too, though .*{first.name}"):
        check(sharded)


def test_safetensors_that_belong_to_no_model_are_named(folder, tmp_path):
    several = make_model(tmp_path / "several", Variant("qwen2", False, torch.float32, sharded=True), seed=4)
    for whole in (folder, several):
        WeightFiles(whole).check_alone()
        save_file({"model.norm.weight": torch.zeros(48)}, whole / "model-00009-of-00009.safetensors")
        check(whole)  # whoever reads by name is not misled
        with pytest.raises(
            UserError, match=r"model-00009-of-00009\.safetensors: not one of the model's files"
        ):
            WeightFiles(whole).check_alone()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_named(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(UserError, match="not an index of safetensors"):
        check(sharded)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "../elsewhere/model.safetensors"])
def test_an_index_that_leads_to_a_pickle_or_out_of_the_folder_is_refused(sharded, file):
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    with pytest.raises(UserError, match=r"which is not a \.safetensors file beside"):
        check(sharded)


def test_two_sets_of_weights_in_one_folder_are_refused(sharded):
    save_file({"model.norm.weight": torch.zeros(48)}, sharded / SINGLE)
    with pytest.raises(UserError, match="remove the one that is stale"):
        check(sharded)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", SINGLE])
def test_a_pickle_is_refused_and_never_unpickled(folder, tmp_path, name):
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=r"is a pickle|can't be read as safetensors"):
        WeightFiles(folder)
    assert not (tmp_path / "sprung").exists()
    pickle.loads((folder / name).read_bytes())  # the trap does work
    assert (tmp_path / "sprung").exists()
