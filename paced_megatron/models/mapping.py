"""The one map between Hugging Face's and Megatron-Core's parameters.

A row (`Rule`) names a Megatron parameter, the Hugging Face tensors that it is made of, and the layout by
which tensor parallelism cuts it. Loading reads the table from right to left, saving and weight sync from left
to right, so that a wrong row can't hide in one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.models.families import ModelShape


@dataclass(frozen=True)
class Cut:
    """How many ranks share the tensor, and the shape of the model that it belongs to."""

    shape: ModelShape
    tp: int


@dataclass(frozen=True)
class Layout:
    """Two functions that are each other's inverse.

    Attributes:
        shard: (whole Hugging Face tensors, cut, rank) -> this rank's part of the Megatron parameter.
        merge: (every rank's part in order, cut) -> whole Hugging Face tensors.
    """

    shard: Callable[[Sequence[Tensor], Cut, int], Tensor]
    merge: Callable[[Sequence[Tensor], Cut], list[Tensor]]


def _shard_qkv(tensors: Sequence[Tensor], cut: Cut, rank: int) -> Tensor:
    """Per KV group its query heads, then its key, then its value, along rows; ranks get whole groups."""
    groups, dim = cut.shape.num_query_groups, cut.shape.head_dim
    query, key, value = (
        tensor.unflatten(0, (groups, -1, dim)) for tensor in tensors
    )  # [groups, heads, dim, ...]
    fused = torch.cat([query, key, value], dim=1).chunk(cut.tp)[rank]
    return fused.flatten(0, 2)


def _merge_qkv(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    groups, dim = cut.shape.num_query_groups, cut.shape.head_dim
    fused = torch.cat(list(parts)).unflatten(0, (groups, -1, dim))
    heads = cut.shape.num_attention_heads // groups
    return [piece.flatten(0, 2) for piece in fused.split([heads, 1, 1], dim=1)]


def _shard_gate_up(tensors: Sequence[Tensor], cut: Cut, rank: int) -> Tensor:
    """Rank r holds its part of the gate followed by its part of the up projection."""
    return torch.cat([tensor.chunk(cut.tp)[rank] for tensor in tensors])


def _merge_gate_up(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    halves = [part.chunk(2) for part in parts]
    return [torch.cat([gate for gate, _ in halves]), torch.cat([up for _, up in halves])]


def _shard_vocabulary(tensors: Sequence[Tensor], cut: Cut, rank: int) -> Tensor:
    """Rows are padded with zeros at the end, so that every rank holds as many."""
    (table,) = tensors
    padding = cut.shape.padded_vocab_size(cut.tp) - table.shape[0]
    return torch.nn.functional.pad(table, (0, 0, 0, padding)).chunk(cut.tp)[rank]


def _merge_vocabulary(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    return [torch.cat(list(parts))[: cut.shape.vocab_size]]


LAYOUTS: dict[str, Layout] = {
    "replicated": Layout(lambda tensors, cut, rank: tensors[0], lambda parts, cut: [parts[0]]),
    "columns": Layout(
        lambda tensors, cut, rank: tensors[0].chunk(cut.tp, dim=1)[rank],
        lambda parts, cut: [torch.cat(list(parts), dim=1)],
    ),
    "qkv": Layout(_shard_qkv, _merge_qkv),
    "gate_up": Layout(_shard_gate_up, _merge_gate_up),
    "vocabulary": Layout(_shard_vocabulary, _merge_vocabulary),
}


@dataclass(frozen=True)
class Rule:
    """One row of the map: Megatron's name, Hugging Face's names in the order in which `layout` wants them."""

    megatron: str
    hugging_face: tuple[str, ...]
    layout: str

    def shard(self, tensors: Sequence[Tensor], cut: Cut, rank: int) -> Tensor:
        """This rank's Megatron parameter, from the whole Hugging Face tensors."""
        return LAYOUTS[self.layout].shard(tensors, cut, rank)

    def merge(self, parts: Sequence[Tensor], cut: Cut) -> dict[str, Tensor]:
        """The Hugging Face tensors by name, from every rank's Megatron parameter in rank order."""
        return dict(zip(self.hugging_face, LAYOUTS[self.layout].merge(parts, cut), strict=True))


_LAYER: tuple[Rule, ...] = (
    Rule("input_layernorm.weight", ("input_layernorm.weight",), "replicated"),
    Rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "qkv",
    ),
    Rule("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",), "replicated"),
    Rule("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",), "replicated"),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), "columns"),
    Rule("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), "replicated"),
    Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up"),
    Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), "columns"),
)

_MODEL: tuple[Rule, ...] = (
    Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocabulary"),
    Rule("decoder.final_layernorm.weight", ("model.norm.weight",), "replicated"),
)
_HEAD = Rule("output_layer.weight", ("lm_head.weight",), "vocabulary")


def rules(shape: ModelShape) -> list[Rule]:
    """The map of one model: a rule for every parameter it has. A tied head is the embedding and has no rule
    of its own."""
    layers = [
        Rule(
            f"decoder.layers.{layer}.{rule.megatron}",
            tuple(f"model.layers.{layer}.{name}" for name in rule.hugging_face),
            rule.layout,
        )
        for layer in range(shape.num_layers)
        for rule in _LAYER
    ]
    return [*_MODEL, *layers] if shape.tied else [*_MODEL, *layers, _HEAD]


def hugging_face_names(shape: ModelShape) -> set[str]:
    """The names of all tensors that a Hugging Face folder of this shape holds."""
    return {name for rule in rules(shape) for name in rule.hugging_face}
