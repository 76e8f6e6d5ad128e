"""A Hugging Face folder that is not what it should be: one line that names the file or the tensor."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.family_models import Variant, make_model
from paced_megatron.errors import UserError
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
    rewrite(
        folder,
        lm_head__weight=torch.zeros(301, 48),
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(5),
    )
    check(folder)


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
