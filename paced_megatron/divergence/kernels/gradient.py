"""The gradient of the student's logits, in one pass, recomputed entry by entry from both logits."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paced_megatron.divergence.kernels.formulas import load, of_mixture
from paced_megatron.divergence.kernels.launch import elementwise, on_device_of


@triton.jit
def _block(  # type: ignore[no-untyped-def]
    student,
    teacher,
    out,
    columns,
    known,
    over_temperature,
    share,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    DIVERGENCE: tl.constexpr,
):
    low_s = (load(student, columns, COLUMNS, WHOLE) - tl.load(known)) * over_temperature
    low_t = (load(teacher, columns, COLUMNS, WHOLE) - tl.load(known + 1)) * over_temperature
    of_student = tl.exp(low_s) * tl.load(known + 2)
    if DIVERGENCE == "forward_kl":
        gradient = of_student - tl.exp(low_t) * tl.load(known + 3)
    else:
        log_ratio = low_t - low_s + tl.load(known + 4)
        if DIVERGENCE == "reverse_kl":
            g = log_ratio
        else:
            g, _ = of_mixture(DIVERGENCE, 0.0, 0.0, log_ratio, share)
        gradient = of_student * (g - tl.load(known + 5))
    gradient = gradient.to(out.dtype.element_ty)
    if WHOLE:
        tl.store(out + columns, gradient)
    else:
        tl.store(out + columns, gradient, mask=columns < COLUMNS)


@triton.jit
def gradient_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    known,
    out,
    student_stride,
    teacher_stride,
    out_stride,
    over_temperature,
    share,
    COLUMNS: tl.constexpr,
    KNOWN: tl.constexpr,
    BLOCK: tl.constexpr,
    DIVERGENCE: tl.constexpr,
):
    """One program a block of a row; known [n, KNOWN] as in part.py. out may be the student's logits: each
    thread writes the entries that it has read, and no other."""
    BLOCKS: tl.constexpr = (COLUMNS + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    start = tl.program_id(0) % BLOCKS * BLOCK
    student += row * student_stride
    teacher += row * teacher_stride
    out += row * out_stride
    known += row * KNOWN
    columns = start + tl.arange(0, BLOCK)
    if start + BLOCK <= COLUMNS:
        _block(student, teacher, out, columns, known, over_temperature, share, COLUMNS, True, DIVERGENCE)
    else:
        _block(student, teacher, out, columns, known, over_temperature, share, COLUMNS, False, DIVERGENCE)


def write_gradient(
    divergence: str,
    share: float,
    student_logits: Tensor,
    teacher_logits: Tensor,
    known: Tensor,
    temperature: float,
    out: Tensor,
) -> None:
    """out [n, V], float32 or bf16, rows of whatever stride."""
    n, columns = student_logits.shape
    launch = elementwise(columns)
    if n and columns:
        with on_device_of(student_logits):
            gradient_kernel[(n * triton.cdiv(columns, launch.block),)](
                student_logits,
                teacher_logits,
                known,
                out,
                student_logits.stride(0),
                teacher_logits.stride(0),
                out.stride(0),
                1.0 / temperature,
                share,
                COLUMNS=columns,
                KNOWN=known.shape[1],
                BLOCK=launch.block,
                DIVERGENCE=divergence,
                num_warps=launch.warps,
            )
