"""From the arguments of a public function to what the walk needs: checked first, then gathered."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from paced_megatron.divergence.checks import check_models, check_settings, check_teacher_rows, check_tokens
from paced_megatron.divergence.result import DivergenceStatistics
from paced_megatron.divergence.table import DIVERGENCES
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.walk import Evaluate, Gradients, Heads, Tokens, walk
from paced_megatron.divergence.workspace import Workspace


@dataclass(frozen=True)
class Prepared:
    tokens: Tokens
    heads: Heads
    evaluate: Evaluate
    temperature: float
    workspace: Workspace

    def walk(self, gradients: Gradients | None) -> DivergenceStatistics:
        """Numbers of all tokens; `gradients` are added to."""
        return DivergenceStatistics(
            *walk(self.tokens, self.heads, self.evaluate, self.temperature, self.workspace, gradients)
        )


@torch.no_grad()
def prepare(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    weights: Tensor | None,
    divergence: str,
    parameter: float | None,
    temperature: float,
    vocab_size: int,
    labels: Tensor | None,
    token_indices: Tensor | None,
    group: ProcessGroup | None,
    sequence_parallel: bool,
    workspace_mb: float | None,
) -> Prepared:
    """The arguments are `weighted_divergence`'s. Raises ValueError before any collective."""
    taken = check_settings(divergence, parameter, temperature, workspace_mb)
    check_models(student_hidden, student_head, teacher_hidden, teacher_head)
    shard = VocabularyShard.of(group, student_head.shape[0], vocab_size)
    check_teacher_rows(teacher_head, shard)
    count = student_hidden.shape[0] * (shard.world_size if sequence_parallel else 1)
    check_tokens(weights, labels, token_indices, count, student_hidden.device)

    student, teacher = student_hidden, teacher_hidden
    if sequence_parallel:
        student, teacher = shard.gather_tokens(student), shard.gather_tokens(teacher)
    dtype = _computing_dtype(student_hidden, student_head, teacher_hidden, teacher_head)
    indices = torch.arange(count) if token_indices is None else token_indices
    row = DIVERGENCES[divergence]
    return Prepared(
        tokens=Tokens(student, teacher, labels, indices.to(student.device), dtype),
        heads=Heads(student_head[: shard.real], teacher_head[: shard.real], shard),
        evaluate=lambda chunk, total, shard: row.evaluate(chunk, total, shard, taken),
        temperature=temperature,
        workspace=Workspace.of(workspace_mb, student_head, teacher_head, dtype, row.buffers),
    )


def _computing_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
