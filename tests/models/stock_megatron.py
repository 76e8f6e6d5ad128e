"""Jobs for the pool that know Megatron-Core alone: a stock GPTModel, built from what a checkpoint says of
itself, filled by Megatron's own loader. None of our models, maps or loaders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from paced_megatron.runtime.cpu import megatron_on_cpu


def build(checkpoint: Path, tp: int, pp: int) -> GPTModel:
    """This rank's part of the model that the checkpoint's `args` describe, with weights that are all 7."""
    parallel_state.initialize_model_parallel(tp, pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    args = dist_checkpointing.load_common_state_dict(str(checkpoint))["args"]
    config = TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups,
        kv_channels=args.kv_channels,
        layernorm_epsilon=args.norm_epsilon,
        normalization=args.normalization,
        activation_func=F.silu,
        gated_linear_unit=args.swiglu,
        add_bias_linear=args.add_bias_linear,
        add_qkv_bias=args.add_qkv_bias,
        qk_layernorm=args.qk_layernorm,
        hidden_dropout=args.hidden_dropout,
        attention_dropout=args.attention_dropout,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        pipeline_dtype=args.params_dtype,
        params_dtype=args.params_dtype,
    )
    unit = args.make_vocab_size_divisible_by * tp  # Megatron-LM's own rule
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(
            qk_layernorm=args.qk_layernorm, normalization=args.normalization
        ),
        vocab_size=-(-args.vocab_size // unit) * unit,
        max_sequence_length=args.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=False,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_base=args.rotary_base,
        rope_scaling=args.use_rope_scaling,
        rope_scaling_factor=getattr(args, "rope_scaling_factor", 8.0),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    return model.eval()


def load(model: GPTModel, checkpoint: Path) -> None:
    """As Megatron-LM does it: strict in both steps."""
    content = dist_checkpointing.load_content_metadata(str(checkpoint))
    wanted = {"model": model.sharded_state_dict(metadata=content)}
    state = dist_checkpointing.load(wanted, str(checkpoint))
    assert state["checkpoint_version"] == 3.0 and state["iteration"] == 0
    model.load_state_dict(state["model"], strict=True)


@torch.no_grad()
def logits(rank: int, world_size: int, checkpoint: Path, tokens: Tensor, tp: int, pp: int) -> Tensor | None:
    """[b, s, V], padding included, on the ranks of the last stage; None on the others."""
    with megatron_on_cpu():
        model = build(checkpoint, tp, pp)
        load(model, checkpoint)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        if not parallel_state.is_pipeline_first_stage():
            hidden = torch.empty(tokens.shape[1], tokens.shape[0], model.config.hidden_size)
            dist.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
            model.set_input_tensor(hidden)
        out = model(tokens, positions, None)
        if not parallel_state.is_pipeline_last_stage():
            dist.send(out.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
            return None
    return out


def load_and_save(
    rank: int, world_size: int, checkpoint: Path, out: Path, tp: int, pp: int, prefix: str, content: dict
) -> list[str]:
    """Load at one layout and let Megatron save again, with optimizer state as it would lie beside.

    Returns the names of the entries that this rank has."""
    with megatron_on_cpu():
        model = build(checkpoint, tp, pp)
        load(model, checkpoint)
        if rank == 0:
            out.mkdir()
        dist.barrier()
        entries = model.sharded_state_dict(prefix=prefix, metadata=content)
        moments = {
            name: dataclasses.replace(entry, key=f"optimizer.state.exp_avg.{entry.key}")
            for name, entry in entries.items()
            if isinstance(entry, ShardedTensor)
        }
        names = sorted(entries)
        state = {"model": entries, "optimizer": moments, "iteration": 12}
        dist_checkpointing.save(state, str(out), content_metadata=dict(content))
    return names
