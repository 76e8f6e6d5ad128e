"""What a Megatron checkpoint says beside its tensors, so that stock Megatron takes it for one of its own.

Source: `load_checkpoint`, `check_checkpoint_args` and `load_args_from_checkpoint` in Megatron-LM's
megatron/training/checkpointing.py, which say what is asked for.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch

from paced_megatron.models.families import FAMILIES, ModelShape

# Megatron rounds the vocabulary up to a multiple of this times the tensor-parallel size, unless it is told
# otherwise. The tensors themselves are not padded: loading allows another number of rows.
MAKE_VOCAB_SIZE_DIVISIBLE_BY = 128

# The modules whose `_extra_state` a model of either layer spec may ask for. It holds FP8 scales, and nothing
# in a checkpoint that was not trained in FP8.
_IN_LAYER = (
    "self_attention.linear_qkv",
    "self_attention.q_layernorm",
    "self_attention.k_layernorm",
    "self_attention.core_attention",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)


def empty_objects(shape: ModelShape) -> list[str]:
    """The keys of the `_extra_state` entries, which stock Megatron misses where they are not there."""
    stacked = [
        f"decoder.layers.{module}._extra_state/shard_{layer}_{shape.num_layers}"
        for module in _IN_LAYER
        for layer in range(shape.num_layers)
    ]
    return [*stacked, "decoder.final_layernorm._extra_state/shard_0_1"]


def common_state(shape: ModelShape, params_dtype: torch.dtype) -> dict[str, Any]:
    """The part of the checkpoint that is no tensor."""
    return {
        "args": megatron_args(shape, params_dtype),
        "checkpoint_version": 3.0,  # of the order of rows in linear_qkv; below 2 Megatron would reorder them
        "iteration": 0,
        # Which of Megatron's ways to name and stack tensors was used.
        "content_metadata": {"singleton_local_shards": False, "non_homogeneous_layers": False},
    }


def megatron_args(shape: ModelShape, params_dtype: torch.dtype) -> Namespace:
    """Megatron-LM's arguments as far as the model's shape decides them (`--use-checkpoint-args` takes them).

    What training decides is left out: sequence length, batch sizes, optimizer, tokenizer's place.
    """
    unit, family = MAKE_VOCAB_SIZE_DIVISIBLE_BY, FAMILIES[shape.family].megatron
    theta = shape.rope_theta
    args = Namespace(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        group_query_attention=True,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.head_dim,
        max_position_embeddings=shape.max_position_embeddings,
        add_position_embedding=True,
        position_embedding_type="rope",
        rotary_base=int(theta) if theta == int(theta) else theta,
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=shape.rope_scaling is not None,
        normalization="RMSNorm",
        norm_epsilon=shape.layer_norm_eps,
        apply_layernorm_1p=False,
        swiglu=True,
        squared_relu=False,
        add_bias_linear=False,
        add_qkv_bias=family["add_qkv_bias"],
        qk_layernorm=family["qk_layernorm"],
        apply_query_key_layer_scaling=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        untie_embeddings_and_output_weights=not shape.tied,
        vocab_size=shape.vocab_size,
        padded_vocab_size=-(-shape.vocab_size // unit) * unit,
        make_vocab_size_divisible_by=unit,
        tokenizer_type="HuggingFaceTokenizer",
        params_dtype=params_dtype,
        bf16=params_dtype == torch.bfloat16,
        fp16=params_dtype == torch.float16,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        ckpt_format="torch_dist",
        no_save_optim=True,
        no_save_rng=True,
    )
    if shape.rope_scaling is not None:
        args.rope_scaling_factor = shape.rope_scaling.factor
    return args
