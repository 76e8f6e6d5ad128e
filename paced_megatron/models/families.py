"""From a Hugging Face config.json to what the Megatron-Core model of the same function needs.

A family is a row of `FAMILIES`. Every field of config.json is translated here or in `rope.py`, or accounted
for in `config_fields.py`; none is ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError, may_not_be_read
from paced_megatron.models.config_fields import check_fields
from paced_megatron.models.rope import RopeScaling, read_rope

# Where it lies beside config.json, transformers with peft computes something else than the weights there say.
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        megatron: the fields of TransformerConfig in which this family differs from the others. The map's rows
            (`mapping.py`) ask them too, which parameters there are. (A mixture of experts would name its
            sizes here, and its rows there.)
        defaults: what transformers takes for a field that config.json leaves out; None: it must be there.
    """

    megatron: Mapping[str, bool]
    defaults: Mapping[str, Any] = field(default_factory=dict)


# By config.json's model_type.
FAMILIES: dict[str, Family] = {
    # Qwen3-0.6B to 32B: a norm over each head's query and key, no bias.
    "qwen3": Family(megatron={"qk_layernorm": True, "add_qkv_bias": False}, defaults={"head_dim": 128}),
    # Qwen2, Qwen2.5, Qwen2.5-Math, Qwen2.5-Coder: a bias on query, key and value.
    "qwen2": Family(megatron={"qk_layernorm": False, "add_qkv_bias": True}),
    # Llama-3, 3.1, 3.2 (text): neither; long texts by a stretched rotary embedding (rope.py).
    "llama": Family(megatron={"qk_layernorm": False, "add_qkv_bias": False}),
}

# Refused with the reason, since people ask for them.
_REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("qwen3_moe", "qwen2_moe", "mixtral", "deepseek_v2", "deepseek_v3", "olmoe", "gpt_oss", "llama4"),
        "a mixture of experts",
    ),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mllama"), "it sees pictures"),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "mamba", "mamba2"), "not all of its layers are attention"),
}


@dataclass(frozen=True)
class ModelShape:
    """What the rest of the package needs to know of a model.

    Attributes:
        family: the row of `FAMILIES`.
        vocab_size: rows of the head in the Hugging Face folder; entries beyond it are Megatron's padding.
        rope_theta: base of the rotary embedding.
        layer_norm_eps: added to the mean square under the root (RMSNorm).
        tied: the head is the embedding.
        rope_scaling: how the rotary embedding is stretched for long texts; None: not at all.
    """

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    layer_norm_eps: float
    tied: bool
    rope_scaling: RopeScaling | None = None

    def padded_vocab_size(self, tensor_model_parallel_size: int) -> int:
        """The smallest number of rows from `vocab_size` on that every rank can hold an equal part of."""
        return -(-self.vocab_size // tensor_model_parallel_size) * tensor_model_parallel_size


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder.

    Raises:
        UserError: no such folder, no config.json in it, it isn't a JSON object, or an adapter lies there.
    """
    path = folder / "config.json"
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder}: {ADAPTER} makes this a LoRA or other adapter on top of a model, and adapters are not "
            "read; merge it into its base (peft's merge_and_unload) and save that, or remove the file"
        )
    if not path.is_file():
        raise UserError(
            f"{folder}: no config.json here; a model is a Hugging Face folder (config.json, *.safetensors, "
            "tokenizer)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8, so not JSON") from None
    except PermissionError:
        raise may_not_be_read(path) from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object")
    return config


def _family(config: Mapping[str, Any], path: Path) -> str:
    name = config.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return name
    why = f": {_REFUSED[name]}" if isinstance(name, str) and name in _REFUSED else ""
    raise UserError(
        f"{path}: model_type={name!r} is not supported{why}; known: {', '.join(sorted(FAMILIES))}"
    )


def _whole_number(config: Mapping[str, Any], name: str, path: Path, default: int | None = None) -> int:
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise UserError(f"{path}: {name} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{path}: {name}={value!r} has to be a whole number above 0")
    return value


def model_shape(folder: Path) -> ModelShape:
    """Read and check the config.json of a Hugging Face folder. Needs no weights and no Megatron.

    Raises:
        UserError: an unknown architecture, or a field that is missing or isn't supported, with its name.
    """
    config, path = read_config(folder), folder / "config.json"
    family = _family(config, path)
    check_fields(config, path)
    rope_theta, rope_scaling = read_rope(config, path)
    heads = _whole_number(config, "num_attention_heads", path)
    hidden = _whole_number(config, "hidden_size", path)
    shape = ModelShape(
        family=family,
        num_layers=_whole_number(config, "num_hidden_layers", path),
        hidden_size=hidden,
        ffn_hidden_size=_whole_number(config, "intermediate_size", path),
        num_attention_heads=heads,
        num_query_groups=_whole_number(config, "num_key_value_heads", path),
        head_dim=_whole_number(
            config, "head_dim", path, default=FAMILIES[family].defaults.get("head_dim", hidden // heads)
        ),
        vocab_size=_whole_number(config, "vocab_size", path),
        max_position_embeddings=_whole_number(config, "max_position_embeddings", path),
        rope_theta=rope_theta,
        layer_norm_eps=_epsilon(config, path),
        tied=_tied(config, path),
        rope_scaling=rope_scaling,
    )
    if shape.num_attention_heads % shape.num_query_groups:
        raise UserError(
            f"{path}: num_key_value_heads={shape.num_query_groups} does not divide "
            f"num_attention_heads={heads}"
        )
    if shape.head_dim % 2:
        raise UserError(f"{path}: head_dim={shape.head_dim} is odd; a rotary embedding turns pairs")
    return shape


def _epsilon(config: Mapping[str, Any], path: Path) -> float:
    value = config.get("rms_norm_eps")
    if value is None:
        raise UserError(f"{path}: rms_norm_eps is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:  # nor NaN
        raise UserError(f"{path}: rms_norm_eps={value!r} has to be a number from 0 on")
    return float(value)


def _tied(config: Mapping[str, Any], path: Path) -> bool:
    value = config.get("tie_word_embeddings", False)
    if not isinstance(value, bool):
        raise UserError(f"{path}: tie_word_embeddings={value!r} has to be true or false")
    return value


def check_layout(
    shape: ModelShape,
    folder: Path,
    tensor_model_parallel_size: int,
    pipeline_model_parallel_size: int = 1,
    virtual_pipeline_model_parallel_size: int | None = None,
    *,
    section: str = "parallel",
) -> None:
    """Raise UserError when a layout can't cut this model into equal parts, and say which one can.

    Args:
        section: the configuration's, whose keys the line names.
    """
    tp = tensor_model_parallel_size
    divided = {
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "intermediate_size": shape.ffn_hidden_size,
    }
    for name, size in divided.items():
        if size % tp:
            fits = max(n for n in range(1, tp) if not any(other % n for other in divided.values()))
            raise UserError(
                f"{section}.tensor_model_parallel_size={tp} does not divide {name}={size} of {folder}; try "
                f"{fits}"
            )
    stages, chunks = pipeline_model_parallel_size, virtual_pipeline_model_parallel_size or 1
    if chunks > 1 and stages == 1:
        raise UserError(
            f"virtual_pipeline_model_parallel_size={chunks} needs pipeline_model_parallel_size of 2 or more"
        )
    if shape.num_layers % (stages * chunks):
        fits = max(n for n in range(1, stages * chunks) if shape.num_layers % n == 0)
        times = f" x virtual_pipeline_model_parallel_size={chunks}" if chunks > 1 else ""
        raise UserError(
            f"{section}.pipeline_model_parallel_size={stages}{times} does not divide num_hidden_layers="
            f"{shape.num_layers} of {folder}; try {fits}{' in all' if chunks > 1 else ''}"
        )
