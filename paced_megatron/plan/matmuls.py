"""Floating-point operations of a step's matrix products, by part: two for each multiplication and addition.

The usual count (Narayanan et al., arXiv 2104.04473, appendix): a product of [n, k] and [k, m] takes 2 n k m,
a backward pass twice its forward pass, and attention scores are counted whole, though half are masked.
"""

from __future__ import annotations

from paced_megatron.models.families import ModelShape
from paced_megatron.plan.parameters import layer_matrices
from paced_megatron.plan.work import Work


def _layers_forward(shape: ModelShape, tokens: float) -> float:
    """The weight matrices of all layers."""
    return 2.0 * tokens * shape.num_layers * sum(layer_matrices(shape, 1).values())


def _attention_forward(shape: ModelShape, tokens: float, text_tokens: int) -> float:
    """Scores and their product with the values, of all layers."""
    width = shape.num_attention_heads * shape.head_dim
    return 2.0 * 2.0 * tokens * text_tokens * width * shape.num_layers


def matmul_flops(work: Work) -> dict[str, float]:
    """Part -> operations of one optimizer step over the whole global batch, all ranks together."""
    batches = work.micro_batches * work.layout.data_parallel_size
    tokens, scored = float(work.tokens * batches), float(work.loss_tokens * batches)
    attention = {
        # Of packed texts each looks at itself alone, not at the whole bin.
        name: _attention_forward(shape, tokens, work.prompt_tokens + work.response_tokens)
        for name, shape in (("student", work.student), ("teacher", work.teacher))
    }
    forward = _layers_forward(work.student, tokens) + attention["student"]
    again = {"full": forward, "selective": attention["student"]}
    heads = 3 * work.student.hidden_size + work.teacher.hidden_size  # the student's forward and both backward
    vocabulary = min(work.student.vocab_size, work.teacher.vocab_size)
    twice = work.student.hidden_size + work.teacher.hidden_size  # both logits, for the numbers alone
    statistics = forward + 2.0 * scored * vocabulary * twice if work.token_statistics else 0.0
    return {
        "teacher forward": _layers_forward(work.teacher, tokens) + attention["teacher"],
        "token statistics": statistics,
        "student forward": forward,
        "student backward": 2.0 * forward,
        "recomputation": again.get(work.layout.recompute_granularity or "", 0.0),
        "loss": 2.0 * scored * vocabulary * heads,
    }


def idle_share(work: Work) -> float:
    """Of the student's passes the share in which a pipeline stage waits: (p - 1) / (v m + p - 1), for p
    stages of v chunks and m micro-batches."""
    waiting = work.layout.pipeline_model_parallel_size - 1
    return waiting / (work.layout.chunks * work.micro_batches + waiting)
