"""The layers that a model is built from: Transformer Engine's, or Megatron-Core's own with the two that these
lack, a norm that bears sequence parallelism and attention over packed texts.

Which ones is `layer_choice.py`'s matter. Their parameters have different names in the model (mapping.py) and
the same in a checkpoint, so that a run may go on with the others.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from paced_megatron.models.attention import TextAttention


class RMSNorm(torch.nn.RMSNorm):
    """torch's, called as Megatron calls it. Its own wrapper of it refuses sequence parallelism, under which
    `weight.sequence_parallel` asks for the gradient to be summed over the tensor-parallel ranks. The weight
    is where Megatron makes all others, and of their type: torch's fused kernel takes no other beside them.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        device = torch.cuda.current_device()
        super().__init__(hidden_size, eps=eps, device=device, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def layer_spec(config: TransformerConfig, vp_stage: int | None, pp_rank: int) -> TransformerBlockSubmodules:
    """The layers of `config.transformer_impl` for one chunk of the model, and its last norm."""
    spec, norm = _SPECS[config.transformer_impl](config)
    count = get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank)
    return TransformerBlockSubmodules(layer_specs=[spec] * count, layer_norm=norm)


def _local(config: TransformerConfig) -> tuple[ModuleSpec, type]:
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    attention = spec.submodules.self_attention.submodules
    attention.core_attention = TextAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return spec, RMSNorm


def _transformer_engine(config: TransformerConfig) -> tuple[ModuleSpec, type]:
    # Imported here: where Transformer Engine is not, Megatron's module of it may not be importable either.
    from megatron.core.extensions.transformer_engine import TENorm

    return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm), TENorm


_SPECS = {"local": _local, "transformer_engine": _transformer_engine}
