"""One process, no pool: what Megatron computes from the loaded weights is what transformers computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from transformers import AutoModelForCausalLM

from models.family_models import OWN, TEXT_LENGTH, Variant, make_model
from models.layout_ranks import At, forward
from paced_megatron.models import folder as models_folder
from paced_megatron.models.families import model_shape, read_config
from paced_megatron.models.folder import load_weights, save_folder
from paced_megatron.models.gpt import build_model, parameters_by_name
from paced_megatron.models.mapping import filling_rules
from paced_megatron.models.weight_files import WeightFiles
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups


@pytest.fixture
def groups() -> Iterator[ProcessGroupCollection]:
    """Megatron's groups over this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with megatron_on_cpu():
            yield parallel_groups(1, seed=1)
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@pytest.mark.parametrize("family", sorted(OWN))
@pytest.mark.parametrize("tied", [False, True])
def test_logits_on_one_process_are_those_of_transformers(groups, tmp_path, family, tied):
    source = make_model(tmp_path / "model", Variant(family, tied, torch.float32, sharded=False), seed=21)
    tokens = torch.randint(0, 301, (2, TEXT_LENGTH), generator=torch.Generator().manual_seed(7))
    shape = model_shape(source)
    model = build_model(shape, groups, torch.float32)
    load_weights(model, shape, source, groups)
    logits = forward([model], tokens, At(1))
    with torch.no_grad():
        truth = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)(tokens).logits
    assert (logits - truth).abs().max() <= 1e-4
    assert truth.std() > 0.5  # the model does tell tokens apart


@pytest.mark.parametrize("family", sorted(OWN))
def test_a_tied_head_is_the_embedding_itself_and_an_untied_one_is_not(groups, tmp_path, family):
    for tied in (True, False):
        variant = Variant(family, tied, torch.float32, sharded=False)
        source = make_model(tmp_path / variant.name, variant, seed=22)
        shape = model_shape(source)
        model = build_model(shape, groups, torch.float32)
        assert (model.head is model.embedding.word_embeddings.weight) == tied
        assert ("output_layer.weight" in parameters_by_name(model)) == (not tied)


def test_a_model_with_the_transformer_engines_names_is_filled_from_the_same_table(groups, tmp_path):
    source = make_model(tmp_path / "model", Variant("qwen3", True, torch.float32, sharded=False), seed=23)
    shape = model_shape(source)
    local, renamed = (build_model(shape, groups, torch.float32) for _ in range(2))
    for layer in renamed.decoder.layers:  # as the Transformer Engine's spec does: the norm is in the linear
        layer.self_attention.linear_qkv.layer_norm_weight = layer.input_layernorm.weight
        layer.mlp.linear_fc1.layer_norm_weight = layer.pre_mlp_layernorm.weight
        del layer.input_layernorm, layer.pre_mlp_layernorm
    for model in (local, renamed):
        load_weights(model, shape, source, groups)
    ours, theirs = parameters_by_name(local), parameters_by_name(renamed)
    assert len(ours) == len(theirs) and ours.keys() != theirs.keys()
    for rule in filling_rules(shape)[:-1]:
        assert torch.equal(ours[rule.megatron], theirs[rule.transformer_engine])


def test_a_large_model_says_how_far_it_has_come_and_a_small_one_nothing(
    groups, tmp_path, monkeypatch, capsys
):
    source = make_model(tmp_path / "model", Variant("qwen2", False, torch.float32, sharded=False), seed=24)
    shape = model_shape(source)
    model = build_model(shape, groups, torch.float32)
    capsys.readouterr()
    load_weights(model, shape, source, groups)
    save_folder(model, shape, groups, source=source, out=tmp_path / "small")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(models_folder, "SHOWN_FROM", 0)
    load_weights(model, shape, source, groups)
    save_folder(model, shape, groups, source=source, out=tmp_path / "large")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("loading model: 0/1 MB") and lines[1].startswith("loading model: 1/1 MB in")
    assert lines[2].startswith("writing large: 0/1 MB") and lines[3].startswith("writing large: 1/1 MB in")


def test_an_export_in_another_dtype_is_the_weights_rounded_and_config_json_says_so(groups, tmp_path):
    source = make_model(tmp_path / "model", Variant("llama", True, torch.float32, sharded=True), seed=25)
    shape = model_shape(source)
    model = build_model(shape, groups, torch.float32)
    load_weights(model, shape, source, groups)
    save_folder(model, shape, groups, source=source, out=tmp_path / "out", dtype=torch.bfloat16)
    before, after = WeightFiles(source), WeightFiles(tmp_path / "out")
    assert before.names() == after.names()
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before.names())
    assert read_config(tmp_path / "out")["dtype"] == "bfloat16"
    assert model_shape(tmp_path / "out") == shape
