"""Both rows of logits to the sums that a shard gives to the all-gather, in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paced_megatron.divergence.kernels.formulas import load
from paced_megatron.divergence.kernels.launch import on_device_of, reduction
from paced_megatron.divergence.statistics import NO_ENTRIES


@triton.jit
def _absorb(low_by, gap, sum_exp, sum_logit, sum_gap, shift, gap_shift):  # type: ignore[no-untyped-def]
    """One model's three sums with a block more. They were relative to other maxima: each is brought to the
    new ones first, by the rule that `statistics.combine` has for shards."""
    scale = tl.exp(shift)
    e = tl.exp(low_by)
    sum_logit = scale * (sum_logit + shift * sum_exp) + e * low_by
    sum_gap = scale * (sum_gap + gap_shift * sum_exp) + e * gap
    return scale * sum_exp + e, sum_logit, sum_gap


@triton.jit(do_not_specialize=["rows"])  # a short last chunk is no reason to compile again
def measure_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    sums,
    maxima,
    student_stride,
    teacher_stride,
    rows,
    over_temperature,
    COLUMNS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row. sums [n, 2 HALF]: max, sum e, sum e (z - max), sum e gap, of z / temperature, of the
    student and HALF further on of the teacher; maxima [2, n]: of z itself.

    The sums are kept as vectors, one partial sum a lane, and added up as a tree at the end: COLUMNS / BLOCK
    additions in a row, 149 for Qwen's vocabulary.
    """
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    lanes = tl.arange(0, BLOCK)
    m_s = tl.load(student)
    m_t = tl.load(teacher)
    none = tl.zeros([BLOCK], tl.float32)
    s0, s1, s2, t0, t1, t2 = none, none, none, none, none, none
    WHOLE: tl.constexpr = COLUMNS // BLOCK * BLOCK
    for start in range(0, WHOLE, BLOCK):
        m_s, m_t, s0, s1, s2, t0, t1, t2 = _block(
            student, teacher, start + lanes, over_temperature, m_s, m_t, s0, s1, s2, t0, t1, t2, COLUMNS, True
        )
    if WHOLE < COLUMNS:
        m_s, m_t, s0, s1, s2, t0, t1, t2 = _block(
            student,
            teacher,
            WHOLE + lanes,
            over_temperature,
            m_s,
            m_t,
            s0,
            s1,
            s2,
            t0,
            t1,
            t2,
            COLUMNS,
            False,
        )
    tl.store(maxima + row, m_s)
    tl.store(maxima + rows + row, m_t)
    sums += row * (2 * HALF)
    tl.store(sums, m_s * over_temperature)
    tl.store(sums + 1, tl.sum(s0, 0))
    tl.store(sums + 2, tl.sum(s1, 0))
    tl.store(sums + 3, tl.sum(s2, 0))
    tl.store(sums + HALF, m_t * over_temperature)
    tl.store(sums + HALF + 1, tl.sum(t0, 0))
    tl.store(sums + HALF + 2, tl.sum(t1, 0))
    tl.store(sums + HALF + 3, tl.sum(t2, 0))


@triton.jit
def _block(  # type: ignore[no-untyped-def]
    student,
    teacher,
    columns,
    over_temperature,
    m_s,
    m_t,
    s0,
    s1,
    s2,
    t0,
    t1,
    t2,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    z_s = load(student, columns, COLUMNS, WHOLE)
    z_t = load(teacher, columns, COLUMNS, WHOLE)
    new_s = tl.maximum(m_s, tl.max(z_s, 0))
    new_t = tl.maximum(m_t, tl.max(z_t, 0))
    shift_s = (m_s - new_s) * over_temperature
    shift_t = (m_t - new_t) * over_temperature
    low_s = (z_s - new_s) * over_temperature
    low_t = (z_t - new_t) * over_temperature
    gap, gap_shift = low_t - low_s, shift_t - shift_s
    s0, s1, s2 = _absorb(low_s, gap, s0, s1, s2, shift_s, gap_shift)
    t0, t1, t2 = _absorb(low_t, gap, t0, t1, t2, shift_t, gap_shift)
    return new_s, new_t, s0, s1, s2, t0, t1, t2


def measure(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, labels: bool
) -> tuple[Tensor, Tensor]:
    """[n, V] float32 each, rows of whatever stride, left as they are -> (sums [n, 8], or [n, 10] with columns
    4 and 9 left for the labels; maxima [2, n] of the logits themselves)."""
    n, columns = student_logits.shape
    half = 5 if labels else 4
    sums, maxima = student_logits.new_empty(n, 2 * half), student_logits.new_empty(2, n)
    if columns == 0:
        sums.zero_()[:, ::half] = NO_ENTRIES
        return sums, maxima.fill_(NO_ENTRIES)
    launch = reduction(columns)
    if n:
        with on_device_of(student_logits):
            measure_kernel[(n,)](
                student_logits,
                teacher_logits,
                sums,
                maxima,
                student_logits.stride(0),
                teacher_logits.stride(0),
                n,
                1.0 / temperature,
                COLUMNS=columns,
                HALF=half,
                BLOCK=launch.block,
                num_warps=launch.warps,
            )
    return sums, maxima
