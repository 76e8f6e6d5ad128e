"""One process, no pool: what Megatron computes from the loaded weights is what transformers computes."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from transformers import AutoModelForCausalLM

from models.family_models import OWN, TEXT_LENGTH, Variant, make_model
from models.layout_ranks import At, forward
from paced_megatron.models import folder as models_folder
from paced_megatron.models import fusions
from paced_megatron.models.families import model_shape, read_config
from paced_megatron.models.folder import load_weights, save_folder
from paced_megatron.models.gpt import build_model, parameters_by_name
from paced_megatron.models.mapping import filling_rules
from paced_megatron.models.weight_files import WeightFiles
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups

GPU = torch.device("cuda", 0)  # made here: where Megatron is on the CPU, CUDA means the CPU


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
    ours, theirs = parameters_by_name(local), dict(renamed.named_parameters())
    assert len(ours) == len(theirs) and ours.keys() != theirs.keys()
    for rule in filling_rules(shape)[:-1]:
        assert torch.equal(ours[rule.megatron], theirs[rule.transformer_engine])


def test_all_parameters_have_the_type_that_is_asked_for_and_lie_where_megatron_makes_them(groups, tmp_path):
    source = make_model(tmp_path / "model", Variant("qwen3", False, torch.float32, sharded=False), seed=26)
    shape = model_shape(source)
    for dtype in (torch.bfloat16, torch.float64):
        parameters = parameters_by_name(build_model(shape, groups, dtype))
        assert {parameter.dtype for parameter in parameters.values()} == {dtype}
    # Stands for a GPU, which is not here: a device that is not torch's default one.
    with mock.patch.object(torch.cuda, "current_device", lambda: torch.device("meta")):
        parameters = parameters_by_name(build_model(shape, groups, torch.float32))
    assert {parameter.device.type for parameter in parameters.values()} == {"meta"}


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


def test_the_fusions_of_a_gpu_compute_what_the_plain_functions_do(groups, tmp_path, monkeypatch):
    """Their arithmetic, on the CPU, where they are not compiled."""
    source = make_model(tmp_path / "model", Variant("qwen3", False, torch.float32, sharded=False), seed=27)
    shape = model_shape(source)
    plain = build_model(shape, groups, torch.float64)
    with monkeypatch.context() as patched:
        patched.setattr(fusions, "model_device", lambda: GPU)
        assert fusions.fusions("transformer_engine")["apply_rope_fusion"]
        fused = build_model(shape, groups, torch.float64)
    assert fused.config.bias_activation_fusion and not plain.config.bias_activation_fusion
    tokens, found = torch.randint(0, 301, (1, 9), generator=torch.Generator().manual_seed(8)), []
    for model in (plain, fused):
        load_weights(model, shape, source, groups)
        with torch.compiler.set_stance("force_eager"):
            hidden = model(tokens, torch.arange(9)[None], None)
            hidden.square().sum().backward()
        found.append(
            [
                hidden,
                *(weight.grad for weight in parameters_by_name(model).values() if weight.grad is not None),
            ]
        )
    assert len(found[0]) == len(found[1]) > 20
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()
