"""config.json: what is translated, and what is refused by name."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, Qwen3Config

from paced_megatron.errors import UserError
from paced_megatron.models.config_fields import CHECKED, HARMLESS, TRANSLATED
from paced_megatron.models.families import FAMILIES, check_layout, model_shape
from tiny_models import make_tiny_qwen3


@pytest.fixture
def folder(tmp_path):
    return make_tiny_qwen3(tmp_path / "model", seed=4)


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_shape_is_that_of_config_json(folder):
    shape = model_shape(folder)
    assert (shape.hidden_size, shape.ffn_hidden_size, shape.num_layers) == (48, 80, 3)
    assert (shape.num_attention_heads, shape.num_query_groups, shape.head_dim) == (4, 2, 16)
    assert shape.rope_theta == 50000.0
    assert not shape.tied


def test_rope_theta_is_read_from_the_old_place_too(folder):
    change(folder, rope_parameters=None, rope_theta=7000.0)
    assert model_shape(folder).rope_theta == 7000.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "gemma3"),
        ("model_type", None),
        ("model_type", ["qwen3"]),
        ("architectures", ["Qwen3ForSequenceClassification"]),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("attention_dropout", 0.1),
        ("partial_rotary_factor", 0.5),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("quantization_config", {"bits": 4}),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Own"}),
        ("is_encoder_decoder", True),
        ("tie_word_embeddings", "yes"),
        ("logits_scaling", 8.0),
        ("final_logit_softcapping", 30.0),
        ("num_experts", 64),
        ("a_field_of_next_year", 3),
    ],
)
def test_a_field_that_would_change_the_arithmetic_is_refused_by_name(folder, name, value):
    change(folder, **{name: value})
    with pytest.raises(UserError, match=name):
        model_shape(folder)


@pytest.mark.parametrize("name", ["quantization_config", "quantization", "compression_config"])
def test_quantised_weights_are_refused_as_such_under_whichever_name(folder, name):
    change(folder, **{name: {"group_size": 64, "bits": 4}})
    with pytest.raises(UserError, match=rf"{name}=.* is not supported \(bring unquantised weights\)"):
        model_shape(folder)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "qwen2_moe", "mixtral"])
def test_a_mixture_of_experts_is_refused_as_such(folder, model_type):
    change(folder, model_type=model_type)
    with pytest.raises(UserError, match=rf"model_type='{model_type}'.*a mixture of experts"):
        model_shape(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch_dtype", "bfloat16"),
        ("max_window_layers", 28),
        ("sliding_window", 4096),
        ("initializer_range", 0.5),
        ("transformers_version", "4.44.0"),
        ("use_cache", False),
        ("temperature", 0.6),
        ("mlp_bias", False),
        ("partial_rotary_factor", 1.0),
        ("a_field_of_next_year", None),
        ("a_switch_of_next_year", False),
    ],
)
def test_a_field_that_leaves_the_arithmetic_alone_changes_nothing(folder, name, value):
    before = model_shape(folder)
    change(folder, **{name: value})
    assert model_shape(folder) == before


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_field_that_transformers_writes_is_accounted_for(model_type):
    known = TRANSLATED | HARMLESS.keys() | CHECKED.keys()
    written = AutoConfig.for_model(model_type).to_dict().keys()
    assert written <= known, f"name them in models/config_fields.py: {sorted(written - known)}"
    assert not TRANSLATED & HARMLESS.keys() and not HARMLESS.keys() & CHECKED.keys()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("hidden_size", None, "hidden_size is missing"),
        ("num_key_value_heads", 3, "num_key_value_heads=3 does not divide num_attention_heads=4"),
        ("head_dim", 15, "head_dim=15 is odd"),
        ("vocab_size", "many", "vocab_size='many' has to be a whole number"),
        ("num_hidden_layers", 0, "num_hidden_layers=0"),
        ("rms_norm_eps", None, "rms_norm_eps is missing"),
        ("rms_norm_eps", "1e-6", "rms_norm_eps='1e-6'"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps=nan"),
        ("rms_norm_eps", float("inf"), "rms_norm_eps=inf"),
    ],
)
def test_a_size_that_is_missing_or_impossible_is_named(folder, name, value, told):
    change(folder, **{name: value})
    with pytest.raises(UserError, match=told):
        model_shape(folder)


def test_a_qwen3_without_head_dim_has_what_transformers_takes(folder):
    change(folder, head_dim=None)
    assert model_shape(folder).head_dim == Qwen3Config().head_dim == 128


def test_scaled_rope_in_the_new_place_is_refused(folder):
    change(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0})
    with pytest.raises(UserError, match="rope_type='yarn'"):
        model_shape(folder)


def test_a_folder_without_config_json_and_a_broken_one_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"elsewhere.*config\.json"):
        model_shape(tmp_path / "elsewhere")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json:1"):
        model_shape(folder)


def test_a_layout_that_does_not_divide_the_heads_is_refused_with_one_that_does(folder):
    check_layout(model_shape(folder), folder, 2)
    with pytest.raises(UserError, match=r"tensor_model_parallel_size=4.*num_key_value_heads=2.*try 2"):
        check_layout(model_shape(folder), folder, 4)


def test_a_pipeline_that_does_not_divide_the_layers_is_refused_with_one_that_does(folder):
    shape = model_shape(folder)
    check_layout(shape, folder, 1, 3)
    with pytest.raises(
        UserError, match=r"pipeline_model_parallel_size=2 does not divide num_hidden_layers=3"
    ):
        check_layout(shape, folder, 1, 2)
    with pytest.raises(UserError, match=r"virtual_pipeline_model_parallel_size=2 does not divide.*try 3"):
        check_layout(shape, folder, 1, 3, 2)
    with pytest.raises(UserError, match=r"virtual_pipeline_model_parallel_size=3 needs"):
        check_layout(shape, folder, 1, 1, 3)
