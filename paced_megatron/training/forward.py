"""One model's passes over micro-batches, through Megatron's own schedule: what teacher and student share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.utils import get_model_config
from torch import Tensor
from torch.distributed import ProcessGroup

from paced_megatron.models.packed import packed_texts
from paced_megatron.runtime.transfer import to_device
from paced_megatron.training.batches import TokenRows

ForwardStep = Callable[[Iterator[Any], torch.nn.Module], tuple[Tensor, Callable[..., Any]]]


def stage_output(model: torch.nn.Module, rows: TokenRows, device: torch.device) -> Tensor:
    """What this stage hands on [s, b, H]: on the last stage the final hidden states, after the last norm."""
    tokens = to_device(rows.tokens, device)
    position_ids = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    # No mask is passed: Megatron's causal attention makes its own, and padding stands behind all that counts.
    # Positions in the rotary embedding, and attention, begin anew at each of a row's packed texts.
    cuts = rows.cu_seqlens
    packed = None if cuts is None else packed_texts(cuts, device, get_model_config(model))
    return model(tokens, position_ids, None, packed_seq_params=packed)


def all_tokens(output: Tensor, sequence_parallel: bool, group: ProcessGroup) -> Tensor:
    """The last stage's output [s, b, H] of all tokens, where under sequence parallelism a rank has its part
    of them; in the backward pass each takes its own part of the gradient back."""
    if not sequence_parallel:
        return output
    return gather_from_sequence_parallel_region(output, tensor_parallel_output_grad=False, group=group)


def at_positions(hidden: Tensor, rows: TokenRows) -> Tensor:
    """The hidden states [s, b, H] at the rows' positions: [M, H]."""
    return hidden.flatten(0, 1).index_select(0, to_device(rows.positions, hidden.device))


def run_schedule(
    forward_step: ForwardStep,
    items: Sequence[Any],
    chunks: Sequence[torch.nn.Module],
    groups: ProcessGroupCollection,
    *,
    tokens_shape: tuple[int, int],
    forward_only: bool = False,
    collect_non_loss_data: bool = False,
) -> list[Any]:
    """Megatron's schedule for this model's pipeline, whatever the global state says of another's.

    Args:
        forward_step: called with an iterator over `items` and a chunk; returns its output and a function of
            the output (see Megatron's get_forward_backward_func).
        items: one a micro-batch.
        chunks: this rank's parts of the model, wrapped or not; several with virtual pipeline stages.
        groups: the model's own process groups.
        tokens_shape: (b, s) of all micro-batches, which a pipeline's messages need to know.

    Returns:
        What the functions of the output returned, one a micro-batch, on the last stage; [] elsewhere.
    """
    config = get_model_config(chunks[0])
    virtual = config.virtual_pipeline_model_parallel_size
    micro_batch_size, seq_length = tokens_shape
    return get_forward_backward_func(groups.pp.size(), virtual)(
        forward_step_func=forward_step,
        data_iterator=[iter(items) for _ in chunks] if virtual else iter(items),
        model=list(chunks),
        num_microbatches=len(items),
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
        collect_non_loss_data=collect_non_loss_data,
        p2p_communicator=P2PCommunicator(groups.pp, config) if groups.pp.size() > 1 else None,
        pg_collection=groups,
    )


@torch.no_grad()
def final_hidden_states(
    chunks: Sequence[torch.nn.Module],
    rows: Sequence[TokenRows],
    groups: ProcessGroupCollection,
    device: torch.device,
) -> list[Tensor | None]:
    """Forward only: for each of `rows` the final hidden states [M, H] at its positions on the model's last
    stage, None on the others. Under pipelining all rows have one shape."""
    sequence_parallel = get_model_config(chunks[0]).sequence_parallel

    def forward_step(
        pending: Iterator[TokenRows], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[..., Tensor]]:
        of = next(pending)
        return stage_output(model, of, device), lambda output, non_loss_data: at_positions(
            all_tokens(output, sequence_parallel, groups.tp), of
        )

    found = run_schedule(
        forward_step,
        rows,
        chunks,
        groups,
        tokens_shape=rows[0].shape,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return list(found) if found else [None] * len(rows)
