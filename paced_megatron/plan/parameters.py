"""How many parameters a rank holds; counted from the shape, and checked against Megatron's own models."""

from __future__ import annotations

from dataclasses import dataclass

from paced_megatron.models.families import FAMILIES, ModelShape

LARGE_FOR_A_CPU = 200_000_000  # parameters of a student that nobody trains on one on purpose


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters on a rank.

    Attributes:
        layers: of its transformer layers, all chunks together.
        embedding: of the input embedding, 0 where the rank has none.
        head: of the output projection, also where it is the last stage's copy of a tied embedding; 0 where it
            *is* the embedding beside it.
        final_norm: of the norm before the head.
        largest: of the largest single one; its gradient is one tensor.
    """

    layers: int
    embedding: int
    head: int
    final_norm: int
    largest: int

    @property
    def total(self) -> int:
        return self.layers + self.embedding + self.head + self.final_norm


def attention_rows(shape: ModelShape) -> int:
    """Rows of the fused query, key and value projection."""
    return (shape.num_attention_heads + 2 * shape.num_query_groups) * shape.head_dim


def layer_matrices(shape: ModelShape, tp: int) -> dict[str, int]:
    """Entries of a layer's weight matrices on one of `tp` ranks, by Megatron's names."""
    width = shape.num_attention_heads * shape.head_dim
    return {
        "linear_qkv": attention_rows(shape) * shape.hidden_size // tp,
        "linear_proj": width * shape.hidden_size // tp,
        "linear_fc1": 2 * shape.ffn_hidden_size * shape.hidden_size // tp,
        "linear_fc2": shape.ffn_hidden_size * shape.hidden_size // tp,
    }


def _layer(shape: ModelShape, tp: int) -> int:
    megatron = FAMILIES[shape.family].megatron
    count = sum(layer_matrices(shape, tp).values()) + 2 * shape.hidden_size  # two norms
    if megatron["add_qkv_bias"]:
        count += attention_rows(shape) // tp
    if megatron["qk_layernorm"]:
        count += 2 * shape.head_dim
    return count


def parameters_on_rank(shape: ModelShape, tp: int, pp: int, stage: int) -> Parameters:
    """Those of a rank of pipeline stage `stage`, from 0; virtual stages do not change their number."""
    rows = shape.padded_vocab_size(tp) // tp * shape.hidden_size
    first, last = stage == 0, stage == pp - 1
    embedding = rows if first else 0
    head = rows if last and not (shape.tied and first) else 0
    return Parameters(
        layers=_layer(shape, tp) * shape.num_layers // pp,
        embedding=embedding,
        head=head,
        final_norm=shape.hidden_size if last else 0,
        largest=max(embedding, head, *layer_matrices(shape, tp).values()),
    )
