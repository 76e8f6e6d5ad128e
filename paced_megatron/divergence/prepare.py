"""From the arguments of a public function to what the walk needs: checked first, then gathered."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from paced_megatron.divergence.checks import check_models, check_settings, check_teacher_rows, check_tokens
from paced_megatron.divergence.choice import Machine, Path, choose
from paced_megatron.divergence.matmul import Products, TensorCores, Widened
from paced_megatron.divergence.table import DIVERGENCES
from paced_megatron.divergence.torch_part import TorchPart, VocabularyPart
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.walk import Heads, Tokens, Walk


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
    kernels: str,
) -> Walk:
    """A walk without gradients. The arguments are `weighted_divergence`'s. Raises ValueError before any
    collective."""
    taken = check_settings(divergence, parameter, temperature, workspace_mb)
    check_models(student_hidden, student_head, teacher_hidden, teacher_head)
    shard = VocabularyShard.of(group, student_head.shape[0], vocab_size)
    check_teacher_rows(teacher_head, shard)
    count = student_hidden.shape[0] * (shard.world_size if sequence_parallel else 1)
    check_tokens(weights, labels, token_indices, count, student_hidden.device)

    dtypes = [x.dtype for x in (student_hidden, student_head, teacher_hidden, teacher_head)]
    path = choose(kernels, divergence, dtypes, Machine.of(student_hidden.device), shard.world_size)
    path.warn()

    student, teacher = student_hidden, teacher_hidden
    if sequence_parallel:
        student, teacher = shard.gather_tokens(student), shard.gather_tokens(teacher)
    workspace = path.workspace(workspace_mb, student_head, teacher_head)
    products: Products = Widened(path.dtype, temperature, workspace.head_rows)
    if path.tensor_cores:
        products = TensorCores(temperature)
    return Walk(
        tokens=Tokens(student, teacher, labels, _on_device(token_indices, count, student.device), path.dtype),
        heads=Heads(student_head[: shard.real], teacher_head[: shard.real], shard),
        vocabulary=_vocabulary_part(path, divergence, taken, shard, products.temperature),
        products=products,
        workspace=workspace,
        gradients=None,
        pipelined=path.pipelined,
    )


def _vocabulary_part(
    path: Path, divergence: str, parameter: float | None, shard: VocabularyShard, temperature: float
) -> VocabularyPart:
    if path.triton:
        from paced_megatron.divergence.kernels.part import TritonPart  # the one import of Triton

        return TritonPart(divergence, parameter, shard, temperature)
    return TorchPart(DIVERGENCES[divergence], parameter, shard, temperature)


def _on_device(indices: Tensor | None, count: int, device: torch.device) -> Tensor:
    """[M]: those given, which are on the CPU, or all. From pinned memory the copy is only queued: from
    other memory the process would wait for all that the GPU has still to do."""
    if indices is None:
        return torch.arange(count, device=device)
    if device.type == "cuda" and not indices.is_pinned():
        indices = indices.pin_memory()
    return indices.to(device, non_blocking=True)
