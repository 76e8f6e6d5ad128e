"""What a forward pass keeps for its backward pass, by layer and by pipeline stage.

The rows are the tensors that torch's autograd saves in Megatron-Core's local layers, each storage once, as
tests/plan sees them; after Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (arXiv 2205.05198), section 4, whose count is for other kernels: two-matrix MLPs, dropout, fused
norms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paced_megatron.models.families import FAMILIES, ModelShape
from paced_megatron.plan.parameters import attention_rows, layer_matrices
from paced_megatron.plan.work import Work


@dataclass(frozen=True)
class Kept:
    """A tensor that a layer keeps: elements for each token; whether they are float32 or wider rather than of
    the parameters' type; whether tensor parallelism cuts it always, or under sequence parallelism only; and
    whether selective recomputation makes it anew."""

    elements: Callable[[ModelShape, Work], float]
    accurate: bool = False
    always_cut: bool = False
    recomputed: bool = False


def _hidden(shape: ModelShape, work: Work) -> float:
    return shape.hidden_size


def _ffn(shape: ModelShape, work: Work) -> float:
    return shape.ffn_hidden_size


def _queries(shape: ModelShape, work: Work) -> float:
    return shape.num_attention_heads * shape.head_dim


def _keys(shape: ModelShape, work: Work) -> float:
    return shape.num_query_groups * shape.head_dim


def _rope(shape: ModelShape, work: Work) -> float:
    return shape.head_dim / work.micro_batch_size  # one for all texts of a micro-batch


_NORM = (
    Kept(_hidden, accurate=True),  # its input, widened
    Kept(_hidden, accurate=True),  # that over its root mean square
)

_MLP = (
    *_NORM,
    Kept(_hidden),  # the input of fc1
    Kept(lambda shape, work: 2 * shape.ffn_hidden_size, always_cut=True),  # gate and up
    Kept(_ffn, always_cut=True),  # silu(gate)
    Kept(_ffn, always_cut=True),  # up, with Megatron's offset of 0
    Kept(_ffn, always_cut=True),  # the input of fc2
)


def _one(shape: ModelShape, work: Work) -> float:
    return 1.0


# On a GPU: torch's own norm keeps its input as it is and a number for each token, and Megatron's fused SwiGLU
# gate and up alone, from which it makes the rest again (models/fusions.py).
_FUSED_NORM = (
    Kept(_hidden),
    Kept(_one, accurate=True),
)

_FUSED_MLP = (
    *_FUSED_NORM,
    Kept(_hidden),  # the input of fc1
    Kept(lambda shape, work: 2 * shape.ffn_hidden_size, always_cut=True),  # gate and up
    Kept(_ffn, always_cut=True),  # the input of fc2
)


def _is_narrow(work: Work) -> bool:
    return work.element < work.accurate


def _projected(shape: ModelShape, work: Work) -> float:
    """Queries, keys and values as they are projected: one tensor, kept whole where one of them is kept."""
    values_kept = not work.makes_scores or work.layout.recompute_granularity == "selective"
    keys_kept = FAMILIES[shape.family].megatron["qk_layernorm"] and not _is_narrow(work)
    return attention_rows(shape) if values_kept or keys_kept else 0.0


_QK_NORM = (
    Kept(_queries, accurate=True, always_cut=True),
    Kept(_queries, accurate=True, always_cut=True),
    # A norm's input is a view into `_projected`, unless it has to be widened.
    Kept(lambda shape, work: _keys(shape, work) * _is_narrow(work), accurate=True, always_cut=True),
    Kept(_keys, accurate=True, always_cut=True),
)


_FUSED_QK_NORM = (
    Kept(_queries, always_cut=True),  # keys are a view into `_projected`
    Kept(lambda shape, work: shape.num_attention_heads + shape.num_query_groups, True, always_cut=True),
)


def _scores(shape: ModelShape, work: Work) -> float:
    return shape.num_attention_heads * work.text_tokens


def _scores_narrowed(shape: ModelShape, work: Work) -> float:
    return _scores(shape, work) * _is_narrow(work)


def _into_attention(shape: ModelShape, work: Work) -> float:
    """Queries and keys, where attention is computed again from them."""
    again = work.layout.recompute_granularity == "selective" and work.makes_scores
    return (_queries(shape, work) + _keys(shape, work)) * again


_SCORES = (
    Kept(_queries, always_cut=True, recomputed=True),
    Kept(_queries, always_cut=True, recomputed=True),  # keys, one for each head
    Kept(_queries, always_cut=True, recomputed=True),  # values, one for each head
    Kept(_scores, accurate=True, always_cut=True, recomputed=True),
    Kept(_scores_narrowed, always_cut=True, recomputed=True),
)

# torch's own attention, which packed texts go through everywhere and all texts on a GPU, never has all scores
# at once. (Padded texts under selective recomputation keep one result fewer.)
_FUSED = (
    Kept(_queries, always_cut=True),
    Kept(_keys, always_cut=True),
    Kept(_queries, always_cut=True),  # the result, text by text
    Kept(lambda shape, work: shape.num_attention_heads, accurate=True, always_cut=True),  # log-sum-exp
)

_AROUND_ATTENTION = (
    Kept(_hidden),  # the input of qkv
    Kept(_projected, always_cut=True),
    Kept(_into_attention, always_cut=True),
    *(Kept(_rope) for _ in range(4)),  # cosine and sine, for queries and for keys
    Kept(_queries, always_cut=True),  # the input of proj
)


def layer_rows(shape: ModelShape, work: Work) -> tuple[Kept, ...]:
    """What a transformer layer of this family keeps."""
    attention = (*_AROUND_ATTENTION, *(_SCORES if work.makes_scores else _FUSED))
    norm, mlp = (_FUSED_NORM, _FUSED_MLP) if work.fused else (_NORM, _MLP)
    qk_norm: tuple[Kept, ...] = ()
    if FAMILIES[shape.family].megatron["qk_layernorm"]:
        qk_norm = _FUSED_QK_NORM if work.fused else _QK_NORM
    return (*norm, *attention, *qk_norm, *mlp)


def layer_bytes(shape: ModelShape, work: Work, *, only_kept: bool = False) -> float:
    """Bytes that one layer keeps of one micro-batch on a rank of the student.

    Args:
        only_kept: without what selective recomputation makes anew.
    """
    layout = work.layout
    tp = layout.tensor_model_parallel_size
    total = 0.0
    for row in layer_rows(shape, work):
        if only_kept and row.recomputed:
            continue
        cut = tp if row.always_cut or layout.sequence_parallel else 1
        total += row.elements(shape, work) * (work.accurate if row.accurate else work.element) / cut
    return total * work.tokens


def in_flight(work: Work, stage: int) -> int:
    """Chunks of a rank that have gone forward and not yet back, at most: one in each pass after the warm-up
    of Megatron's schedules (forward_backward_pipelining_without_interleaving and _with_interleaving)."""
    layout = work.layout
    behind, chunks = layout.pipeline_model_parallel_size - stage - 1, layout.chunks
    warm_up = behind if chunks == 1 else 2 * behind + (chunks - 1) * layout.pipeline_model_parallel_size
    return min(warm_up + 1, work.micro_batches * chunks)


def hidden_bytes(shape: ModelShape, work: Work) -> float:
    """One micro-batch's hidden states [s, b, H] on a rank, as a pipeline hands them on."""
    layout = work.layout
    cut = layout.tensor_model_parallel_size if layout.sequence_parallel else 1
    return work.tokens * shape.hidden_size * work.element / cut


def student_activations(work: Work, stage: int) -> float:
    """Bytes of activations on a rank of pipeline stage `stage`, when most are alive: between the forward and
    the backward pass of the first micro-batch that goes back."""
    shape, layout = work.student, work.layout
    pp = layout.pipeline_model_parallel_size
    layers = shape.num_layers // (pp * layout.chunks)
    handed, flying = hidden_bytes(shape, work), in_flight(work, stage)
    if layout.recompute_granularity == "full":  # one input of so many layers in a row
        of_layers = flying * -(-layers // layout.recompute_num_layers) * handed
    else:
        only_kept = layout.recompute_granularity == "selective"
        of_layers = flying * layers * layer_bytes(shape, work, only_kept=only_kept)
    ends = 0.0
    if pp > 1:  # Megatron keeps what it received and what it sent until the backward pass
        received = handed if stage > 0 and work.element < work.accurate else 0.0
        ends += flying * (received + (handed if stage < pp - 1 else 0.0))
    if stage == pp - 1:  # the last norm, its output, and that at the response's positions
        kept = 1 if work.fused else 2 * work.accurate / work.element
        ends += (kept + 1) * handed + work.loss_tokens * shape.hidden_size * work.element
    return of_layers + ends


def backward_workspace(work: Work) -> float:
    """Bytes that one layer's backward pass works in: what is recomputed for it, the gradients inside the MLP,
    which is wider than the attention, and that of one of its weight matrices before it is added to
    main_grad."""
    shape, layout = work.student, work.layout
    largest_weight = max(layer_matrices(shape, layout.tensor_model_parallel_size).values())
    # Of the MLP's five gradients two at a time: what they are made from goes as they come. Fused, at once:
    # from that of fc2's input those of gate and up.
    mlp = (
        work.tokens
        * (3 if work.fused else 2)
        * shape.ffn_hidden_size
        / layout.tensor_model_parallel_size
        * work.element
    )
    gradients = mlp + 2 * hidden_bytes(shape, work) + largest_weight * work.element
    whole = layer_bytes(shape, work)
    layers = shape.num_layers // (layout.pipeline_model_parallel_size * layout.chunks)
    again = {
        None: 0.0,
        "full": min(layout.recompute_num_layers, layers) * whole,
        "selective": whole - layer_bytes(shape, work, only_kept=True),
    }
    return gradients + again[layout.recompute_granularity]


def forward_workspace(shape: ModelShape, work: Work, tp: int) -> float:
    """Bytes that one layer works in without a backward pass to come (the teacher's): the layer's input,
    the residual stream, what is normed, and the wider of attention and MLP."""
    heads = shape.num_attention_heads
    # Query, key and value as projected, then normed and turned, then one for each head; and the result.
    widths = attention_rows(shape) + (4 * heads + shape.num_query_groups) * shape.head_dim
    attention = widths * work.element
    narrow = work.element if work.element < work.accurate else 0
    if work.makes_scores:
        attention += heads * work.text_tokens * (3 * work.accurate + narrow)  # scores, masked, softmax
    mlp = 5 * shape.ffn_hidden_size * work.element
    return work.tokens * (3 * shape.hidden_size * work.element + max(attention, mlp) / tp)
