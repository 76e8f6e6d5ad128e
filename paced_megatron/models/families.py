"""From a Hugging Face config.json to the Megatron-Core configuration that computes the same function.

Every field that changes the arithmetic is either translated or refused by name; none is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError


@dataclass(frozen=True)
class ModelShape:
    """What the rest of the package needs to know of a model.

    Attributes:
        family: the row of `FAMILIES`.
        vocab_size: rows of the head in the Hugging Face folder; entries beyond it are Megatron's padding.
        rope_theta: base of the rotary embedding.
        layer_norm_eps: added to the mean square under the root (RMSNorm).
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

    def padded_vocab_size(self, tensor_model_parallel_size: int) -> int:
        """The smallest number of rows from `vocab_size` on that every rank can hold an equal part of."""
        return -(-self.vocab_size // tensor_model_parallel_size) * tensor_model_parallel_size


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        megatron: the fields of TransformerConfig in which this family differs from the others.
        check: raises UserError for a field of config.json that would change the arithmetic and isn't
            supported.
    """

    megatron: Mapping[str, Any]
    check: Callable[[Mapping[str, Any], Path], None]


def _refuse(path: Path, name: str, value: Any, why: str) -> None:
    raise UserError(f"{path}: {name}={value!r} is not supported ({why})")


def _check_qwen3(config: Mapping[str, Any], path: Path) -> None:
    if config.get("attention_bias"):
        _refuse(path, "attention_bias", config["attention_bias"], "published Qwen3 models have none")


FAMILIES: dict[str, Family] = {
    "qwen3": Family(megatron={"qk_layernorm": True, "add_qkv_bias": False}, check=_check_qwen3),
}


def _rope_theta(config: Mapping[str, Any], path: Path) -> float:
    """The rotary base. transformers 5 keeps it in `rope_parameters`, older files at the top; scaling is in
    either."""
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        _refuse(path, "rope_parameters.rope_type", kind, "only the unscaled rotary embedding is")
    if config.get("rope_scaling"):
        _refuse(path, "rope_scaling", config["rope_scaling"], "only the unscaled rotary embedding is")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise UserError(f"{path}: rope_theta is missing")
    return float(theta)


def _check_common(config: Mapping[str, Any], path: Path) -> None:
    if config.get("hidden_act", "silu") != "silu":
        _refuse(path, "hidden_act", config["hidden_act"], "only silu is")
    if config.get("use_sliding_window"):
        _refuse(path, "use_sliding_window", True, "attention is over the whole text")
    if config.get("attention_dropout"):
        _refuse(path, "attention_dropout", config["attention_dropout"], "distillation runs without dropout")
    if config.get("quantization_config"):
        _refuse(path, "quantization_config", "...", "bring unquantised weights")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face folder.

    Raises:
        UserError: no such folder, no config.json in it, or it isn't JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: no config.json here; a model is a Hugging Face folder (config.json, *.safetensors, "
            "tokenizer)"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None


def model_shape(folder: Path) -> ModelShape:
    """Read and check the config.json of a Hugging Face folder. Needs no weights and no Megatron.

    Raises:
        UserError: an unknown architecture, or a field that isn't supported, with its name.
    """
    config, path = read_config(folder), folder / "config.json"
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(
            f"{path}: model_type={family!r} is not supported; known: {', '.join(sorted(FAMILIES))}"
        )
    _check_common(config, path)
    FAMILIES[family].check(config, path)
    try:
        return ModelShape(
            family=family,
            num_layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            ffn_hidden_size=config["intermediate_size"],
            num_attention_heads=config["num_attention_heads"],
            num_query_groups=config["num_key_value_heads"],
            head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            vocab_size=config["vocab_size"],
            max_position_embeddings=config["max_position_embeddings"],
            rope_theta=_rope_theta(config, path),
            layer_norm_eps=config["rms_norm_eps"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None


def check_layout(shape: ModelShape, folder: Path, tensor_model_parallel_size: int) -> None:
    """Raise UserError when tensor parallelism can't cut this model into equal parts."""
    tp = tensor_model_parallel_size
    for name, size in (
        ("num_attention_heads", shape.num_attention_heads),
        ("num_key_value_heads", shape.num_query_groups),
        ("intermediate_size", shape.ffn_hidden_size),
    ):
        if size % tp:
            fits = [
                n
                for n in range(1, tp)
                if shape.num_query_groups % n == 0 and shape.num_attention_heads % n == 0
            ]
            raise UserError(
                f"parallel.tensor_model_parallel_size={tp} does not divide {name}={size} of {folder}; try "
                f"{max(fits)}"
            )
