"""The two sums that a mixture needs once both normalisers are known: value, and the student's mean of g."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paced_megatron.divergence.kernels.formulas import load, of_mixture
from paced_megatron.divergence.kernels.launch import on_device_of, reduction


@triton.jit
def _block(  # type: ignore[no-untyped-def]
    student,
    teacher,
    columns,
    known,
    over_temperature,
    share,
    values,
    means,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    DIVERGENCE: tl.constexpr,
):
    low_s = (load(student, columns, COLUMNS, WHOLE) - tl.load(known)) * over_temperature
    low_t = (load(teacher, columns, COLUMNS, WHOLE) - tl.load(known + 1)) * over_temperature
    p_s = tl.exp(low_s) * tl.load(known + 2)
    p_t = tl.exp(low_t) * tl.load(known + 3)
    log_ratio = low_t - low_s + tl.load(known + 4)
    g, summand = of_mixture(DIVERGENCE, p_s, p_t, log_ratio, share)
    return values + summand, means + g * p_s


@triton.jit
def mixture_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    known,
    sums,
    student_stride,
    teacher_stride,
    over_temperature,
    share,
    COLUMNS: tl.constexpr,
    KNOWN: tl.constexpr,
    BLOCK: tl.constexpr,
    DIVERGENCE: tl.constexpr,
):
    """One program a row; known [n, KNOWN] as in part.py, sums [n, 2]."""
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    known += row * KNOWN
    lanes = tl.arange(0, BLOCK)
    values = tl.zeros([BLOCK], tl.float32)
    means = tl.zeros([BLOCK], tl.float32)
    WHOLE: tl.constexpr = COLUMNS // BLOCK * BLOCK
    for start in range(0, WHOLE, BLOCK):
        values, means = _block(
            student, teacher, start + lanes, known, over_temperature, share, values, means,
            COLUMNS, True, DIVERGENCE,
        )  # fmt: skip
    if WHOLE < COLUMNS:
        values, means = _block(
            student, teacher, WHOLE + lanes, known, over_temperature, share, values, means,
            COLUMNS, False, DIVERGENCE,
        )  # fmt: skip
    tl.store(sums + row * 2, tl.sum(values, 0))
    tl.store(sums + row * 2 + 1, tl.sum(means, 0))


def mixture_sums(
    divergence: str,
    share: float,
    student_logits: Tensor,
    teacher_logits: Tensor,
    known: Tensor,
    temperature: float,
) -> Tensor:
    """[n, 2]: this shard's part of (value, E_S[g])."""
    n, columns = student_logits.shape
    sums = student_logits.new_zeros(n, 2)
    launch = reduction(columns)
    if n and columns:
        with on_device_of(student_logits):
            mixture_kernel[(n,)](
                student_logits,
                teacher_logits,
                known,
                sums,
                student_logits.stride(0),
                teacher_logits.stride(0),
                1.0 / temperature,
                share,
                COLUMNS=columns,
                KNOWN=known.shape[1],
                BLOCK=launch.block,
                DIVERGENCE=divergence,
                num_warps=launch.warps,
            )
    return sums
