"""A Megatron-Core GPTModel that ends at its final hidden states.

Teacher and student meet at their hidden states and heads, inside the divergence; logits of all tokens are
never made (docs/decisions/0004). So the model's forward returns hidden states, and `head` hands out the
weight that turns them into logits.
"""

from __future__ import annotations

import paced_megatron.runtime.uncompiled  # noqa: F401  before Megatron-Core

# isort: split
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel.utils import (
    is_pp_first_stage,
    is_pp_last_stage,
    is_vp_first_stage,
    is_vp_last_stage,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer import TransformerConfig
from torch import Tensor
from torch.nn import Parameter

from paced_megatron.models.families import FAMILIES, ModelShape
from paced_megatron.models.fusions import fusions
from paced_megatron.models.layers import layer_spec
from paced_megatron.models.mapping import local_name
from paced_megatron.models.packed import PackedTexts
from paced_megatron.models.rope import llama3_frequencies, unscaled_frequencies


class HiddenStatesModel(GPTModel):
    """GPTModel whose forward gives the final hidden states [s, b, H] (after the last norm), not logits."""

    def _preprocess(
        self, *args: Any, packed_seq_params: PackedSeqParams | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Embeddings and rotary angles; of packed texts the angles token by token (packed.py)."""
        embedded, rotary, *others = super()._preprocess(*args, packed_seq_params=packed_seq_params, **kwargs)
        if isinstance(packed_seq_params, PackedTexts):
            rotary = packed_seq_params.by_token(rotary)
        return (embedded, rotary, *others)

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
    shape: ModelShape,
    *,
    tensor_model_parallel_size: int,
    params_dtype: torch.dtype,
    pipeline_model_parallel_size: int = 1,
    virtual_pipeline_model_parallel_size: int | None = None,
    transformer_impl: str = "local",
    **settings: Any,
) -> TransformerConfig:
    """The configuration under which Megatron-Core computes what transformers computes for this model.

    Args:
        transformer_impl: whose layers, "local" or "transformer_engine" (layer_choice.py).
        settings: more of its fields that leave the computation as it is: sequence_parallel, recompute_*.
    """
    virtual = virtual_pipeline_model_parallel_size
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
        transformer_impl=transformer_impl,
        **fusions(transformer_impl),
        tensor_model_parallel_size=tensor_model_parallel_size,
        pipeline_model_parallel_size=pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual,
        # With two stages of two chunks Megatron's default way to pass gradients back is silently wrong under
        # gloo (tests/models/test_layouts.py compares them with transformers').
        overlap_p2p_comm=virtual is not None,
        batch_p2p_comm=virtual is None,
        params_dtype=params_dtype,
        pipeline_dtype=params_dtype,
        bf16=params_dtype == torch.bfloat16,
        fp16=params_dtype == torch.float16,
        # Every weight is read from a folder, so drawing random ones first would be wasted.
        perform_initialization=False,
        # Our loss is a sum with its denominator inside: Megatron's schedule is not to divide it again
        # (docs/method.md, 3).
        calculate_per_token_loss=True,
        **FAMILIES[shape.family].megatron,
        **settings,
    )


def build_chunks(
    shape: ModelShape,
    groups: ProcessGroupCollection,
    params_dtype: torch.dtype,
    virtual_pipeline_model_parallel_size: int | None = None,
    **settings: Any,
) -> list[HiddenStatesModel]:
    """This rank's parts of an empty model, on Megatron's current device: one for each of its virtual pipeline
    stages, in their order; one in all without them.

    Args:
        shape: what `model_shape` read from the folder.
        groups: the process groups that share the model; the sizes of `groups.tp` and `groups.pp` cut it.
        params_dtype: dtype of parameters and activations.
        settings: more of `transformer_config`'s.
    """
    tp, virtual = groups.tp.size(), virtual_pipeline_model_parallel_size
    config = transformer_config(
        shape,
        tensor_model_parallel_size=tp,
        params_dtype=params_dtype,
        pipeline_model_parallel_size=groups.pp.size(),
        virtual_pipeline_model_parallel_size=virtual,
        **settings,
    )
    chunks = [
        HiddenStatesModel(
            config=config,
            transformer_layer_spec=layer_spec(config, stage, groups.pp.rank()),
            vocab_size=shape.padded_vocab_size(tp),
            max_sequence_length=shape.max_position_embeddings,
            pre_process=is_vp_first_stage(stage, virtual) and is_pp_first_stage(groups.pp),
            post_process=is_vp_last_stage(stage, virtual) and is_pp_last_stage(groups.pp),
            position_embedding_type="rope",
            rotary_base=shape.rope_theta,
            share_embeddings_and_output_weights=shape.tied,
            pg_collection=groups,
            vp_stage=stage,
        )
        for stage in ([None] if virtual is None else range(virtual))
    ]
    for chunk in chunks:
        _mark_parts(chunk)
    if shape.rope_scaling is not None:
        frequencies = llama3_frequencies(
            unscaled_frequencies(shape.rope_theta, shape.head_dim), shape.rope_scaling
        )
        for chunk in chunks:
            chunk.rotary_pos_emb.inv_freq = frequencies.to(chunk.rotary_pos_emb.inv_freq.device)
    return chunks


# Layers that are cut over the tensor-parallel ranks, and the dimension of their weight that is.
_CUT = {VocabParallelEmbedding: 0, ColumnParallelLinear: 0, RowParallelLinear: 1}


def _mark_parts(model: GPTModel) -> None:
    """Tell Megatron which weights are parts of a whole. It marks them as it draws them, which we leave out;
    an unmarked one counts on the first rank alone in the gradient's norm, by which gradients are clipped."""
    for module in model.modules():
        for kind, dim in _CUT.items():
            weight = getattr(module, "weight", None) if isinstance(module, kind) else None
            if weight is not None and not hasattr(weight, "tensor_model_parallel"):
                set_tensor_model_parallel_attributes(weight, True, dim, 1)


def build_model(
    shape: ModelShape, groups: ProcessGroupCollection, params_dtype: torch.dtype
) -> HiddenStatesModel:
    """`build_chunks` without virtual pipeline stages: this rank's only part."""
    (model,) = build_chunks(shape, groups, params_dtype)
    return model


def parameters_by_name(model: GPTModel | Sequence[GPTModel]) -> dict[str, Parameter]:
    """This rank's parameters, of all its chunks, under the names that the map uses: those of the local
    layers, whosever the model's are.

    A pipeline stage counts its layers from 0; the map counts them in the whole model. Megatron tells each
    layer its number there (from 1).
    """
    chunks = [model] if isinstance(model, GPTModel) else model
    found: dict[str, Parameter] = {}
    for chunk in chunks:
        whole = {
            f"decoder.layers.{here}.": f"decoder.layers.{layer.layer_number - 1}."
            for here, layer in enumerate(chunk.decoder.layers)
        }
        for name, parameter in chunk.named_parameters():
            prefix = ".".join(name.split(".", 3)[:3]) + "."
            if prefix in whole:
                name = whole[prefix] + local_name(name.removeprefix(prefix))
            found[name] = parameter
    return found
