"""The one map between Hugging Face's and Megatron-Core's parameters.

A row (`Rule`) names a Megatron parameter, the Hugging Face tensors that it is made of, and the layout by
which tensor parallelism cuts it. Loading reads the table from right to left, saving and weight sync from left
to right, so that a wrong row can't hide in one direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from paced_megatron.models.families import FAMILIES, ModelShape


class Sliceable(Protocol):
    """A tensor, or one that is still in its file: `[a:b]` and `[:, a:b]` bring just that part."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Cut:
    """How many ranks share the tensor, and the shape of the model that it belongs to."""

    shape: ModelShape
    tp: int


@dataclass(frozen=True)
class Layout:
    """Two functions that are each other's inverse.

    Attributes:
        shard: (whole Hugging Face tensors, cut, rank) -> this rank's part of the Megatron parameter. Takes
            from the tensors only what it needs.
        merge: (every rank's part in order, cut) -> whole Hugging Face tensors.
    """

    shard: Callable[[Sequence[Sliceable], Cut, int], Tensor]
    merge: Callable[[Sequence[Tensor], Cut], list[Tensor]]


def _rows(tensor: Sliceable, cut: Cut, rank: int) -> Tensor:
    size = tensor.shape[0] // cut.tp
    return tensor[rank * size : (rank + 1) * size]


def _columns(tensor: Sliceable, cut: Cut, rank: int) -> Tensor:
    size = tensor.shape[1] // cut.tp
    return tensor[:, rank * size : (rank + 1) * size]


def _shard_qkv(tensors: Sequence[Sliceable], cut: Cut, rank: int) -> Tensor:
    """Per KV group its query heads, then its key, then its value, along rows; ranks get whole groups."""
    groups, dim = cut.shape.num_query_groups // cut.tp, cut.shape.head_dim
    query, key, value = (
        _rows(tensor, cut, rank).unflatten(0, (groups, -1, dim)) for tensor in tensors
    )  # [groups, heads, dim, ...]
    return torch.cat([query, key, value], dim=1).flatten(0, 2)


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Side by side; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _merge_qkv(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    groups, dim = cut.shape.num_query_groups, cut.shape.head_dim
    fused = _joined(parts).unflatten(0, (groups, -1, dim))
    heads = cut.shape.num_attention_heads // groups
    return [piece.flatten(0, 2) for piece in fused.split([heads, 1, 1], dim=1)]


def _shard_gate_up(tensors: Sequence[Sliceable], cut: Cut, rank: int) -> Tensor:
    """Rank r holds its part of the gate followed by its part of the up projection."""
    return torch.cat([_rows(tensor, cut, rank) for tensor in tensors])


def _merge_gate_up(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    halves = [part.chunk(2) for part in parts]
    return [_joined([gate for gate, _ in halves]), _joined([up for _, up in halves])]


def _shard_vocabulary(tensors: Sequence[Sliceable], cut: Cut, rank: int) -> Tensor:
    """Rows are padded with zeros at the end, so that every rank holds as many."""
    (table,) = tensors
    size = cut.shape.padded_vocab_size(cut.tp) // cut.tp
    start, end = (min(edge, table.shape[0]) for edge in (rank * size, (rank + 1) * size))
    rows, missing = table[start:end], size - (end - start)
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _merge_vocabulary(parts: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    return [_joined(parts)[: cut.shape.vocab_size]]


LAYOUTS: dict[str, Layout] = {
    "replicated": Layout(lambda tensors, cut, rank: tensors[0][:], lambda parts, cut: [parts[0]]),
    "columns": Layout(
        lambda tensors, cut, rank: _columns(tensors[0], cut, rank),
        lambda parts, cut: [_joined(parts, dim=1)],
    ),
    "qkv": Layout(_shard_qkv, _merge_qkv),
    "gate_up": Layout(_shard_gate_up, _merge_gate_up),
    "vocabulary": Layout(_shard_vocabulary, _merge_vocabulary),
}


@dataclass(frozen=True)
class Rule:
    """One row of the map, for one parameter of one model.

    Attributes:
        megatron: the parameter's name under Megatron's local layer spec, with the layer's number in the
            whole model: its key in `parameters_by_name` (gpt.py).
        transformer_engine: its name under the Transformer Engine's layer spec, which folds a norm into the
            linear layer that follows it. Megatron's own checkpoints use these names whatever the spec.
        hugging_face: shapes by name, of the tensors that it is made of, in the order in which `layout` wants
            them.
        layout: the row of `LAYOUTS` by which tensor parallelism cuts it.
        layer: the layer's number in the whole model, from 0; None for what is in no layer.
    """

    megatron: str
    transformer_engine: str
    hugging_face: Mapping[str, tuple[int, ...]]
    layout: str
    layer: int | None

    @property
    def checkpoint(self) -> str:
        """Its key in a distributed checkpoint, where the layers are stacked along a new first axis."""
        return self.transformer_engine.replace(f"decoder.layers.{self.layer}.", "decoder.layers.")

    @property
    def numel(self) -> int:
        """How many numbers its Hugging Face tensors hold together."""
        return sum(math.prod(size) for size in self.hugging_face.values())

    def shard(self, tensors: Sequence[Sliceable], cut: Cut, rank: int) -> Tensor:
        """This rank's Megatron parameter, from the whole Hugging Face tensors."""
        return LAYOUTS[self.layout].shard(tensors, cut, rank)

    def merge(self, parts: Sequence[Tensor], cut: Cut) -> dict[str, Tensor]:
        """The Hugging Face tensors by name, from every rank's Megatron parameter in rank order."""
        return dict(zip(self.hugging_face, LAYOUTS[self.layout].merge(parts, cut), strict=True))


@dataclass(frozen=True)
class _Row:
    """A row of the tables below, for any layer of any family.

    Attributes:
        megatron, hugging_face, layout: as in `Rule`; instead of sizes, the names of them in `_sizes`.
        transformer_engine: where it differs from `megatron`.
        where: the field of the family's `megatron` table that has to be true for a model to have this row.
    """

    megatron: str
    hugging_face: Mapping[str, str]
    layout: str
    transformer_engine: str = ""
    where: str = ""

    def rule(self, sizes: Mapping[str, int], layer: int | None) -> Rule:
        ours, theirs = ("", "") if layer is None else (f"decoder.layers.{layer}.", f"model.layers.{layer}.")
        return Rule(
            megatron=ours + self.megatron,
            transformer_engine=ours + (self.transformer_engine or self.megatron),
            hugging_face={
                theirs + name: tuple(sizes[size] for size in shape.split())
                for name, shape in self.hugging_face.items()
            },
            layout=self.layout,
            layer=layer,
        )


_LAYER: tuple[_Row, ...] = (
    _Row(
        "input_layernorm.weight",
        {"input_layernorm.weight": "hidden"},
        "replicated",
        transformer_engine="self_attention.linear_qkv.layer_norm_weight",
    ),
    _Row(
        "self_attention.linear_qkv.weight",
        {
            "self_attn.q_proj.weight": "queries hidden",
            "self_attn.k_proj.weight": "keys hidden",
            "self_attn.v_proj.weight": "keys hidden",
        },
        "qkv",
    ),
    _Row(
        "self_attention.linear_qkv.bias",
        {
            "self_attn.q_proj.bias": "queries",
            "self_attn.k_proj.bias": "keys",
            "self_attn.v_proj.bias": "keys",
        },
        "qkv",
        where="add_qkv_bias",
    ),
    _Row(
        "self_attention.q_layernorm.weight",
        {"self_attn.q_norm.weight": "head"},
        "replicated",
        where="qk_layernorm",
    ),
    _Row(
        "self_attention.k_layernorm.weight",
        {"self_attn.k_norm.weight": "head"},
        "replicated",
        where="qk_layernorm",
    ),
    _Row("self_attention.linear_proj.weight", {"self_attn.o_proj.weight": "hidden queries"}, "columns"),
    _Row(
        "pre_mlp_layernorm.weight",
        {"post_attention_layernorm.weight": "hidden"},
        "replicated",
        transformer_engine="mlp.linear_fc1.layer_norm_weight",
    ),
    _Row(
        "mlp.linear_fc1.weight",
        {"mlp.gate_proj.weight": "ffn hidden", "mlp.up_proj.weight": "ffn hidden"},
        "gate_up",
    ),
    _Row("mlp.linear_fc2.weight", {"mlp.down_proj.weight": "hidden ffn"}, "columns"),
)
_LOCAL_NAMES = {row.transformer_engine: row.megatron for row in _LAYER if row.transformer_engine}


def local_name(name: str) -> str:
    """The name under the local layer spec of a layer's parameter that is called `name` under either; both
    without the layer's prefix."""
    return _LOCAL_NAMES.get(name, name)


_EMBEDDING = _Row(
    "embedding.word_embeddings.weight", {"model.embed_tokens.weight": "vocabulary hidden"}, "vocabulary"
)
_FINAL_NORM = _Row("decoder.final_layernorm.weight", {"model.norm.weight": "hidden"}, "replicated")
_HEAD = _Row("output_layer.weight", {"lm_head.weight": "vocabulary hidden"}, "vocabulary")
# The last stage of a pipeline can't reach the embedding on the first one, so it keeps a copy as its head.
_TIED_HEAD = _Row("output_layer.weight", _EMBEDDING.hugging_face, "vocabulary")


def _sizes(shape: ModelShape) -> dict[str, int]:
    return {
        "hidden": shape.hidden_size,
        "queries": shape.num_attention_heads * shape.head_dim,
        "keys": shape.num_query_groups * shape.head_dim,
        "head": shape.head_dim,
        "ffn": shape.ffn_hidden_size,
        "vocabulary": shape.vocab_size,
    }


def rules(shape: ModelShape) -> list[Rule]:
    """The map of one model: a rule for every parameter it has. A tied head is the embedding and has no rule
    of its own."""
    sizes, family = _sizes(shape), FAMILIES[shape.family].megatron
    rows = [row for row in _LAYER if not row.where or family[row.where]]
    layers = [row.rule(sizes, layer) for layer in range(shape.num_layers) for row in rows]
    ends = [_FINAL_NORM] if shape.tied else [_FINAL_NORM, _HEAD]
    return [_EMBEDDING.rule(sizes, None), *layers, *(row.rule(sizes, None) for row in ends)]


def filling_rules(shape: ModelShape) -> list[Rule]:
    """`rules`, and where the head is tied one for the copy that the last stage of a pipeline keeps of it."""
    return rules(shape) + ([_TIED_HEAD.rule(_sizes(shape), None)] if shape.tied else [])


def hugging_face_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that a Hugging Face folder of this model holds, by name."""
    return {name: size for rule in rules(shape) for name, size in rule.hugging_face.items()}
