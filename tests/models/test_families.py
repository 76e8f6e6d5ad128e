"""config.json: what is translated, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from paced_megatron.errors import UserError
from paced_megatron.models.families import check_layout, model_shape
from paced_megatron.models.weight_files import check_weights
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
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("attention_bias", True),
        ("attention_dropout", 0.1),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_a_field_that_would_change_the_arithmetic_is_refused_by_name(folder, name, value):
    change(folder, **{name: value})
    with pytest.raises(UserError, match=name):
        model_shape(folder)


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


def test_a_missing_tensor_and_one_too_many_are_named(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight is missing"):
        check_weights(folder, model_shape(folder))
    save_file(tensors | {"model.norm.weight": norm, "extra": norm.clone()}, folder / "model.safetensors")
    with pytest.raises(UserError, match="extra has no place in the map"):
        check_weights(folder, model_shape(folder))


def test_a_truncated_file_and_a_missing_one_are_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: can't be read"):
        check_weights(folder, model_shape(folder))
    file.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        check_weights(folder, model_shape(folder))
