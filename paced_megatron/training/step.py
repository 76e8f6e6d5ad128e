"""The distillation step: the gradient of the weighted divergence between a teacher and a student, both in
Megatron-Core.

The teacher runs over all of the step's micro-batches first; of its hidden states only those at the response's
positions are kept. Then Megatron's own schedule runs the student forward and backward, with the fused
divergence as its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.divergence import DivergenceResult, weighted_divergence
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.training.batches import MicroBatch, TokenRows


@dataclass(frozen=True)
class Objective:
    """Which divergence with which parameter, over how many real entries of the vocabulary, at which
    temperature, in how much workspace."""

    divergence: str
    vocab_size: int
    parameter: float | None = None
    temperature: float = 1.0
    workspace_mb: float | None = None


@dataclass(frozen=True)
class StepSums:
    """Sums over the whole global batch, the same on every rank.

    Attributes:
        loss: the loss itself (its denominator is inside the coefficients).
        tokens: response tokens.
        divergence, student_entropy, teacher_entropy: sums over these tokens, unweighted, in nats.
    """

    loss: float
    tokens: float
    divergence: float
    student_entropy: float
    teacher_entropy: float


def distributed_student(model: HiddenStatesModel, groups: ProcessGroupCollection) -> DistributedDataParallel:
    """Megatron's data-parallel wrapper: it owns the gradient buffers (`param.main_grad`), float32 or
    wider."""
    main_dtype = torch.promote_types(model.config.params_dtype, torch.float32)
    student = DistributedDataParallel(
        config=model.config,
        ddp_config=DistributedDataParallelConfig(
            grad_reduce_in_fp32=main_dtype == torch.float32, overlap_grad_reduce=False
        ),
        module=model,
        pg_collection=groups,
    )
    # Megatron's schedule calls this at the end. The sum is already divided, so its own count of tokens is
    # left out.
    model.config.finalize_model_grads_func = _finalize
    return student


def _finalize(model: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
    finalize_model_grads(model, None, **groups)


def hidden_states_at(model: torch.nn.Module, rows: TokenRows, device: torch.device) -> Tensor:
    """The model's final hidden states [M, H] at the rows' positions."""
    tokens = rows.tokens.to(device)
    position_ids = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    # No mask is passed: Megatron's causal attention makes its own, and padding stands behind all that counts.
    hidden = model(tokens, position_ids, None)  # [s, b, H]
    return hidden.flatten(0, 1).index_select(0, rows.positions.to(device))


def accumulate_gradient(
    student: DistributedDataParallel,
    teacher: HiddenStatesModel,
    batch: Sequence[MicroBatch],
    objective: Objective,
    groups: ProcessGroupCollection,
) -> StepSums:
    """Add the gradient of the loss over `batch` to the student's `main_grad` buffers, reduced over all ranks.

    Args:
        student: wrapped by `distributed_student`, its gradient buffers zeroed by the caller.
        teacher: no gradient is kept for it. It is cut over the same tensor-parallel group as the student.
        batch: this data-parallel rank's micro-batches, at least one.
        groups: the student's process groups.
    """
    device = next(teacher.parameters()).device
    with torch.no_grad():
        teacher_hidden = [hidden_states_at(teacher, micro_batch.teacher, device) for micro_batch in batch]

    def forward_step(
        pending: Iterator[tuple[MicroBatch, Tensor]], model: torch.nn.Module
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
        micro_batch, hidden_of_teacher = next(pending)
        hidden_of_student = hidden_states_at(model, micro_batch.student, device)
        loss = partial(
            _weighted_loss,
            student,
            teacher,
            micro_batch,
            hidden_of_teacher,
            objective=objective,
            groups=groups,
        )
        return hidden_of_student, loss

    sums = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(zip(batch, teacher_hidden, strict=True)),
        model=[student],
        num_microbatches=len(batch),
        seq_length=max(micro_batch.student.tokens.shape[1] for micro_batch in batch),
        micro_batch_size=max(micro_batch.student.tokens.shape[0] for micro_batch in batch),
        pg_collection=groups,
    )
    total = torch.stack(sums).sum(dim=0)
    dist.all_reduce(total, group=groups.dp)
    return StepSums(*total.tolist())


def _weighted_loss(
    student: DistributedDataParallel,
    teacher: HiddenStatesModel,
    micro_batch: MicroBatch,
    teacher_hidden: Tensor,
    student_hidden: Tensor,
    *,
    objective: Objective,
    groups: ProcessGroupCollection,
) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's loss function: the loss, its count of tokens (unused, see `_finalize`), and what is to be
    logged."""
    accurate = torch.promote_types(student_hidden.dtype, torch.float32)
    result = weighted_divergence(
        student_hidden,
        student.module.head,
        teacher_hidden,
        teacher.head,
        micro_batch.coefficients.to(student_hidden.device, accurate),
        divergence=objective.divergence,
        parameter=objective.parameter,
        temperature=objective.temperature,
        vocab_size=objective.vocab_size,
        labels=micro_batch.labels.to(student_hidden.device),
        group=groups.tp,
        compute_grad=True,
        workspace_mb=objective.workspace_mb,
    )
    return result.loss, torch.zeros((), dtype=torch.int, device=student_hidden.device), _sums(result)


def _sums(result: DivergenceResult) -> Tensor:
    tokens = torch.full_like(result.loss, result.divergence.numel())
    per_token = (result.divergence, result.student_entropy, result.teacher_entropy)
    return torch.stack(
        [result.loss.detach(), tokens.detach(), *(values.sum().to(tokens.dtype) for values in per_token)]
    ).double()
