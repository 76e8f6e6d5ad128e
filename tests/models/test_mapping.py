"""The map between Hugging Face's and Megatron's parameters, as arithmetic on tensors."""

from __future__ import annotations

import pytest
import torch

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


def test_a_tied_head_has_no_rule_of_its_own(tmp_path):
    tied = make_tiny_qwen3(tmp_path, seed=3, tie_word_embeddings=True)
    assert "lm_head.weight" not in hugging_face_shapes(model_shape(tied))
