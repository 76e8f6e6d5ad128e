"""The two layers that Megatron-Core's local spec lacks: a norm that bears sequence parallelism, and attention
over packed texts.

Both are plain torch, for the CPU and for a GPU without Transformer Engine.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor


class RMSNorm(torch.nn.RMSNorm):
    """torch's, called as Megatron calls it. Its own wrapper of it refuses sequence parallelism, under which
    `weight.sequence_parallel` asks for the gradient to be summed over the tensor-parallel ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        super().__init__(hidden_size, eps=eps, device=torch.cuda.current_device())
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class TextAttention(DotProductAttention):
    """Megatron's causal attention, which refuses packed texts; those go text by text through torch's own."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        packed_seq_params: PackedSeqParams | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Packed: query [t, heads, d], key and value [t, groups, d], to [t, heads, d]; texts in a row, cut by
        `packed_seq_params.cu_seqlens_q`."""
        if packed_seq_params is None:
            return super().forward(query, key, value, *args, **kwargs)
        cuts = packed_seq_params.cu_seqlens_q.tolist()
        lengths = [end - start for start, end in pairwise(cuts)]
        texts = zip(*(whole.split(lengths) for whole in (query, key, value)), strict=True)
        return torch.cat([self._one_text(*text) for text in texts])

    def _one_text(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            part.transpose(0, 1)[None] for part in (query, key, value)
        )  # [1, heads, length, d]
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.softmax_scale, enable_gqa=True
        )
        return attended[0].transpose(0, 1)


def layer_spec(config: TransformerConfig, vp_stage: int | None, pp_rank: int) -> TransformerBlockSubmodules:
    """Megatron's local layers with the two above in their places, for one chunk of the model."""
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    attention = spec.submodules.self_attention.submodules
    attention.core_attention = TextAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    count = get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank)
    return TransformerBlockSubmodules(layer_specs=[spec] * count, layer_norm=RMSNorm)
