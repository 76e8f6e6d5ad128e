"""The map between Hugging Face's and Megatron's parameters, as arithmetic on tensors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open

from models.family_models import Variant, make_model
from paced_megatron.models import weight_files
from paced_megatron.models.families import model_shape
from paced_megatron.models.mapping import Cut, hugging_face_shapes, rules
from paced_megatron.models.weight_files import WeightFiles
from tiny_models import make_tiny_qwen3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_qwen3(
        tmp_path_factory.mktemp("model"),
        seed=3,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=10,
        vocab_size=301,
    )


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_cutting_over_ranks_and_merging_gives_every_tensor_back_bit_by_bit(folder, tp):
    files, cut = WeightFiles(folder), Cut(model_shape(folder), tp)
    seen = {}
    for rule in rules(cut.shape):
        tensors = [files[name] for name in rule.hugging_face]
        seen |= rule.merge([rule.shard(tensors, cut, rank) for rank in range(tp)], cut)
    assert seen.keys() == files.names()
    assert all(torch.equal(tensor, files[name]) for name, tensor in seen.items())


def test_each_rank_holds_whole_groups_its_queries_then_key_then_value(folder):
    files, cut = WeightFiles(folder), Cut(model_shape(folder), 2)
    rule = next(rule for rule in rules(cut.shape) if rule.layout == "qkv")
    query, key, value = (files[name] for name in rule.hugging_face)
    part = rule.shard([query, key, value], cut, 1)
    # Rank 1 of 2 has groups 2 and 3 of 4; a group is three query heads, one key, one value, each of 10 rows.
    assert torch.equal(part[:30], query[60:90])
    assert torch.equal(part[30:40], key[20:30])
    assert torch.equal(part[40:50], value[20:30])
    assert torch.equal(part[50:80], query[90:120])


def test_a_rank_holds_its_gate_before_its_up_projection(folder):
    files, cut = WeightFiles(folder), Cut(model_shape(folder), 4)
    rule = next(rule for rule in rules(cut.shape) if rule.layout == "gate_up")
    gate, up = (files[name] for name in rule.hugging_face)
    assert torch.equal(rule.shard([gate, up], cut, 2), torch.cat([gate[40:60], up[40:60]]))


def test_the_vocabulary_is_padded_with_zeros_at_its_end(folder):
    files, cut = WeightFiles(folder), Cut(model_shape(folder), 4)
    rule = next(rule for rule in rules(cut.shape) if "lm_head.weight" in rule.hugging_face)
    last = rule.shard([files["lm_head.weight"]], cut, 3)
    assert last.shape == (76, 48)  # 301 rows and 3 of padding, over 4 ranks
    assert torch.equal(last[:73], files["lm_head.weight"][228:])
    assert not last[73:].any()


def test_the_biases_of_query_key_and_value_are_fused_as_their_weights_are(tmp_path):
    variant = Variant("qwen2", False, torch.float32, sharded=False)
    files = WeightFiles(make_model(tmp_path / "model", variant, seed=3))
    cut = Cut(model_shape(files.folder), 2)
    weight, bias = (
        next(
            rule
            for rule in rules(cut.shape)
            if rule.megatron.endswith(f".1.self_attention.linear_qkv.{part}")
        )
        for part in ("weight", "bias")
    )
    # Each row of the weight says which row of which projection it is; the biases have to go the same way.
    marks = [torch.arange(size[0]) + 1000 * n for n, size in enumerate(bias.hugging_face.values())]
    for rank in range(2):
        rows = weight.shard([mark[:, None].expand(-1, 48) for mark in marks], cut, rank)
        assert torch.equal(rows[:, 0], bias.shard(marks, cut, rank))
    assert rows.shape[0] == 100 and files[next(iter(bias.hugging_face))].any()


@dataclass
class Counted:
    """A tensor that counts how many of its elements were asked for."""

    tensor: torch.Tensor
    read: int = 0

    @property
    def shape(self):
        return self.tensor.shape

    def __getitem__(self, index):
        part = self.tensor[index]
        self.read += part.numel()
        return part


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_a_rank_reads_no_more_than_what_its_parameter_holds(folder, tp):
    files, cut = WeightFiles(folder), Cut(model_shape(folder), tp)
    for rule in rules(cut.shape):
        for rank in range(tp):
            tensors = [Counted(files[name]) for name in rule.hugging_face]
            part = rule.shard(tensors, cut, rank)
            is_padded = rule.layout == "vocabulary" and rank == tp - 1
            padding = (cut.shape.padded_vocab_size(tp) - 301) * 48 if is_padded else 0
            assert sum(tensor.read for tensor in tensors) == part.numel() - padding, rule.megatron


def test_each_file_is_opened_once_however_many_tensors_are_read(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "model", Variant("llama", True, torch.float32, sharded=True), seed=3)
    opened = []
    monkeypatch.setattr(
        weight_files, "safe_open", lambda path, framework: opened.append(path) or safe_open(path, framework)
    )
    files = WeightFiles(folder)
    files.check_readable()
    for name in files.names():
        files.part_of(name)[:1]
    assert len(opened) > 2
    assert sorted(opened) == sorted(folder.glob("*.safetensors"))


def test_one_table_names_both_layer_specs_and_the_checkpoint(folder):
    by_name = {rule.megatron: rule for rule in rules(model_shape(folder))}
    norm = by_name["decoder.layers.2.input_layernorm.weight"]
    assert norm.transformer_engine == "decoder.layers.2.self_attention.linear_qkv.layer_norm_weight"
    assert norm.checkpoint == "decoder.layers.self_attention.linear_qkv.layer_norm_weight"
    norm = by_name["decoder.layers.2.pre_mlp_layernorm.weight"]
    assert norm.transformer_engine == "decoder.layers.2.mlp.linear_fc1.layer_norm_weight"
    assert (
        by_name["decoder.layers.1.mlp.linear_fc2.weight"].checkpoint == "decoder.layers.mlp.linear_fc2.weight"
    )
    assert by_name["output_layer.weight"].checkpoint == "output_layer.weight"
    assert norm.layer == 2 and by_name["output_layer.weight"].layer is None


def test_a_tied_head_has_no_rule_of_its_own(tmp_path):
    tied = make_tiny_qwen3(tmp_path, seed=3, tie_word_embeddings=True)
    assert "lm_head.weight" not in hugging_face_shapes(model_shape(tied))
