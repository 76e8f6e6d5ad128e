"""What the fused divergence takes on a rank that holds the student's head."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from paced_megatron.divergence.choice import Machine, Path, choose
from paced_megatron.plan.work import Work

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def _head_rows(work: Work) -> int:
    tp = work.layout.tensor_model_parallel_size
    return work.student.padded_vocab_size(tp) // tp


def _path(work: Work) -> Path:
    """As on a GPU that has tensor cores, with Triton installed, whatever the machine that plans."""
    dtypes, ranks = [_DTYPES[work.params_dtype], _teacher_dtype(work)], work.layout.tensor_model_parallel_size
    return choose(work.loss_kernels, work.divergence, dtypes, Machine(work.device), ranks)


def _teacher_dtype(work: Work) -> torch.dtype:
    """A moving average is kept in float32 (training/ema.py)."""
    own = _DTYPES[work.params_dtype]
    return torch.promote_types(own, torch.float32) if work.teacher_kind == "ema" else own


def loss_bytes(work: Work) -> float:
    """While the loss is computed, and just after: a chunk of logits in the workspace that the divergence
    itself would choose (divergence/workspace.py), or what stands for the head's gradient in autograd
    (training/head.py); and the gradients of head and hidden states as they grow."""
    rows, dtype, path = _head_rows(work), _DTYPES[work.params_dtype], _path(work)
    with FakeTensorMode():  # sizes without memory, and a device's name without the device
        student_head, teacher_head = (
            torch.empty(rows, shape.hidden_size, dtype=of_head, device=work.device)
            for shape, of_head in ((work.student, dtype), (work.teacher, _teacher_dtype(work)))
        )
        workspace = path.workspace(work.loss_workspace_mb, student_head, teacher_head)
    chunk = min(workspace.chunk_tokens(work.loss_tokens), work.loss_tokens)
    block = min(workspace.block_tokens, chunk)
    row = rows * work.accurate
    logits = (2 + path.beside) * chunk * row
    of_block = (path.buffers - 2) * block * row
    hidden_of_chunk = chunk * (2 * work.student.hidden_size + work.teacher.hidden_size) * work.accurate
    widened = 0
    if dtype != path.dtype and not path.tensor_cores:
        wider = max(work.student.hidden_size, work.teacher.hidden_size)
        widened = min(workspace.head_rows, rows) * wider * work.accurate
    # A block's own buffers are gone before a head is widened again, but not where the next chunk's products
    # are issued before.
    in_turn = of_block + widened if path.pipelined else max(of_block, widened)
    growing = work.loss_tokens * work.student.hidden_size * work.accurate
    head = rows * work.student.hidden_size
    of_chunk = logits + hidden_of_chunk + in_turn
    lasting = head * work.accurate + growing + work.loss_tokens * 12 * work.accurate
    return lasting + max(of_chunk, head * work.element)
