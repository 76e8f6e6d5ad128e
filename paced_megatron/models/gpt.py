"""A Megatron-Core GPTModel that ends at its final hidden states.

Teacher and student meet at their hidden states and heads, inside the divergence; logits of all tokens are
never made (docs/decisions/0004). So the model's forward returns hidden states, and `head` hands out the
weight that turns them into logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from paced_megatron.models.families import FAMILIES, ModelShape


class HiddenStatesModel(GPTModel):
    """GPTModel whose forward gives the final hidden states [s, b, H] (after the last norm), not logits."""

    def _postprocess(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    @property
    def head(self) -> Tensor:
        """This rank's rows of the output projection, [padded vocabulary / TP, H]; the embedding's where they
        are tied."""
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight


def transformer_config(
    shape: ModelShape, *, tensor_model_parallel_size: int, params_dtype: torch.dtype
) -> TransformerConfig:
    """The configuration under which Megatron-Core computes what transformers computes for this model.

    Fusions are off: they need CUDA extensions or change the rounding, and the layer spec here is Megatron's
        own (local) one.
    """
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        layernorm_epsilon=shape.layer_norm_eps,
        normalization="RMSNorm",
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=params_dtype != torch.float64,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        tensor_model_parallel_size=tensor_model_parallel_size,
        params_dtype=params_dtype,
        pipeline_dtype=params_dtype,
        bf16=params_dtype == torch.bfloat16,
        # Every weight is read from a folder, so drawing random ones first would be wasted.
        perform_initialization=False,
        # Our loss is a sum with its denominator inside: Megatron's schedule is not to divide it again
        # (docs/method.md, 3).
        calculate_per_token_loss=True,
        **FAMILIES[shape.family].megatron,
    )


def build_model(
    shape: ModelShape, groups: ProcessGroupCollection, params_dtype: torch.dtype
) -> HiddenStatesModel:
    """An empty model of this shape, this rank's part, on Megatron's current device.

    Args:
        shape: what `model_shape` read from the folder.
        groups: the process groups that share the model; the size of `groups.tp` cuts it.
        params_dtype: dtype of parameters and activations.
    """
    tp = groups.tp.size()
    config = transformer_config(shape, tensor_model_parallel_size=tp, params_dtype=params_dtype)
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    return HiddenStatesModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=shape.padded_vocab_size(tp),
        max_sequence_length=shape.max_position_embeddings,
        position_embedding_type="rope",
        rotary_base=shape.rope_theta,
        share_embeddings_and_output_weights=shape.tied,
        pg_collection=groups,
    )
