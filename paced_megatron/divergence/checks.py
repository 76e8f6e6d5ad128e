"""What does not fit is said in one line, before any collective, so that no rank is left waiting in one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paced_megatron.divergence.table import DIVERGENCES
from paced_megatron.divergence.vocabulary import VocabularyShard

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PRECISE = (torch.float32, torch.float64)


def check_settings(
    divergence: str, parameter: float | None, temperature: float, workspace_mb: float | None
) -> float | None:
    """The parameter to take. Raises ValueError."""
    taken = check_parameter(divergence, parameter)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature} is not a positive number")
    if workspace_mb is not None and not 0 < workspace_mb < math.inf:
        raise ValueError(f"workspace_mb: {workspace_mb} is not a positive number")
    return taken


def check_parameter(divergence: str, parameter: float | None) -> float | None:
    """The parameter to take: the given one, else the divergence's default, None where it takes none.

    Raises ValueError, which opens with "divergence" or "parameter", for an unknown divergence; for a
    parameter that is needed and not given, given and not taken, or not between 0 and 1.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence: {divergence!r} is unknown; known are {', '.join(DIVERGENCES)}")
    name, default = DIVERGENCES[divergence].parameter, DIVERGENCES[divergence].default
    if name is None:
        if parameter is not None:
            raise ValueError(f"parameter: {divergence} takes none, but {parameter} is given")
        return None
    if parameter is None and default is None:
        raise ValueError(f"parameter: {divergence} needs {name}, a number between 0 and 1")
    taken = default if parameter is None else parameter
    if not (isinstance(taken, int | float) and 0 < taken < 1):
        raise ValueError(f"parameter: {name} of {divergence} must be between 0 and 1, not {taken}")
    return float(taken)


def check_models(
    student_hidden: Tensor, student_head: Tensor, teacher_hidden: Tensor, teacher_head: Tensor
) -> None:
    """Raises ValueError unless [N, H_s], [V, H_s], [N, H_t], [V', H_t] in floating dtypes on one device."""
    named = {
        "student_hidden": student_hidden,
        "student_head": student_head,
        "teacher_hidden": teacher_hidden,
        "teacher_head": teacher_head,
    }
    for name, tensor in named.items():
        _check(name, tensor, FLOATS, student_hidden.device, dims=2)
    for who in ("student", "teacher"):
        hidden, head = named[f"{who}_hidden"], named[f"{who}_head"]
        if hidden.shape[1] != head.shape[1]:
            raise ValueError(
                f"{who}_head: rows of {head.shape[1]}, but {who}_hidden has hidden size {hidden.shape[1]}"
            )
    if student_hidden.shape[0] != teacher_hidden.shape[0]:
        raise ValueError(
            f"teacher_hidden: {teacher_hidden.shape[0]} tokens, student_hidden has {student_hidden.shape[0]}"
        )


def check_teacher_rows(teacher_head: Tensor, shard: VocabularyShard) -> None:
    """Raises ValueError unless the teacher's head has this rank's real rows."""
    if teacher_head.shape[0] < shard.real:
        raise ValueError(
            f"teacher_head: {teacher_head.shape[0]} rows, but this rank's {shard.real} ids begin at "
            f"{shard.start}; cut the teacher's head at the student's boundaries"
        )


def check_tokens(
    weights: Tensor | None,
    labels: Tensor | None,
    token_indices: Tensor | None,
    tokens: int,
    device: torch.device,
) -> None:
    """Raises ValueError unless weights, labels and token_indices are [M]; without indices M is tokens.

    tokens is N over all slices of a sequence.
    """
    if token_indices is not None:
        _check("token_indices", token_indices, (torch.int64,), torch.device("cpu"), dims=1)
        if token_indices.numel() and not (token_indices.min() >= 0 and token_indices.max() < tokens):
            raise ValueError(f"token_indices: not all are in 0 .. {tokens - 1}, the tokens of student_hidden")
    count = tokens if token_indices is None else token_indices.numel()
    if weights is not None:
        _check("weights", weights, PRECISE, device, dims=1, length=count)
    if labels is not None:
        _check("labels", labels, (torch.int64,), device, dims=1, length=count)


def check_main_grad(main_grad: Tensor | None, student_head: Tensor) -> None:
    """Raises ValueError unless it is None, or float32 or float64 with the head's shape and device."""
    if main_grad is None:
        return
    _check("main_grad", main_grad, PRECISE, student_head.device, dims=2)
    if main_grad.shape != student_head.shape:
        raise ValueError(
            f"main_grad: shape {list(main_grad.shape)}, student_head has {list(student_head.shape)}"
        )


def _check(
    name: str,
    tensor: Tensor,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
    *,
    dims: int,
    length: int | None = None,
) -> None:
    if tensor.dim() != dims:
        raise ValueError(f"{name}: shape {list(tensor.shape)} has {tensor.dim()} dimensions, not {dims}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name}: dtype {tensor.dtype} is none of {', '.join(map(str, dtypes))}")
    if tensor.device != device:
        raise ValueError(f"{name}: on {tensor.device}, where {device} is needed")
    if length is not None and tensor.shape[0] != length:
        raise ValueError(f"{name}: {tensor.shape[0]} entries for {length} tokens")
