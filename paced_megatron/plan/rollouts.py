"""What the embedded rollout engine (rollout/embedded.py) takes on rank 0: a whole model of its own."""

from __future__ import annotations

from dataclasses import dataclass

from paced_megatron.models.families import ModelShape
from paced_megatron.plan.parameters import parameters_on_rank


@dataclass(frozen=True)
class Rollouts:
    """The engine's settings.

    Attributes:
        batch_size: texts that are sampled together.
        text_tokens: prompt and answer, at most.
        element: bytes of a weight and of an entry of the KV cache.
        during_training: whether the student is also evaluated between steps, beside all that training holds.
    """

    batch_size: int
    text_tokens: int
    element: int
    during_training: bool = False


def engine_parts(rollouts: Rollouts, shape: ModelShape) -> dict[str, float]:
    """Part -> bytes for sampling from one model."""
    entries = 2 * shape.num_layers * shape.num_query_groups * shape.head_dim  # keys and values of a token
    return {
        "engine's weights": float(parameters_on_rank(shape, 1, 1, 0).total * rollouts.element),
        "engine's KV cache": float(entries * rollouts.element * rollouts.batch_size * rollouts.text_tokens),
        "engine's logits": float(rollouts.batch_size * shape.vocab_size * 4),
    }
