"""What the kernels do with one entry of the vocabulary.

exp is the GPU's fast one, with an error of a few float32 roundings. expm1 and log1p are made of exp and log
by Kahan's quotients, in which an error of the inner exp cancels; the interpreter has no others.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(80.0)  # mixtures.LARGEST: expm1 overflows float32 above 88


@triton.jit
def expm1(x):  # type: ignore[no-untyped-def]
    """(e - 1) x / log e for e near exp x."""
    e = tl.exp(x)
    less = e - 1.0
    near = tl.abs(x) < 1.0
    quotient = less * x / tl.log(tl.where(near & (less != 0.0), e, 2.0))
    return tl.where(near, tl.where(less == 0.0, x, quotient), less)


@triton.jit
def log1p(x):  # type: ignore[no-untyped-def]
    """log(u) x / (u - 1) for u near 1 + x."""
    u = 1.0 + x
    less = u - 1.0
    return tl.where(less == 0.0, x, tl.log(u) * x / tl.where(less == 0.0, 1.0, less))


@triton.jit
def of_mixture(DIVERGENCE: tl.constexpr, p_student, p_teacher, log_ratio, share):  # type: ignore[no-untyped-def]
    """(g, summand): docs/method.md, 2; share is beta or skew. g = dD / dp_S without its constant and its
    constant factor; the value is the summands' total, for jsd its teacher's half. As in ../mixtures.py."""
    if DIVERGENCE == "jsd":
        g = -log1p(share * expm1(tl.minimum(log_ratio, LARGEST)))
        summand = -p_teacher * log1p((1.0 - share) * expm1(tl.minimum(-log_ratio, LARGEST)))
    elif DIVERGENCE == "skew_forward_kl":
        x = (1.0 - share) * expm1(tl.minimum(-log_ratio, LARGEST))
        g = x / (1.0 + x)
        summand = -p_teacher * log1p(x)
    else:
        tl.static_assert(DIVERGENCE == "skew_reverse_kl")
        x = (1.0 - share) * expm1(tl.minimum(log_ratio, LARGEST))
        log_mixture = log1p(x)
        g = share * x / (1.0 + x) - log_mixture
        summand = -p_student * log_mixture
    return g, summand


@triton.jit
def load(logits, columns, COLUMNS: tl.constexpr, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of a row; beyond its end as low as no entry. A whole block has no mask, which would cost the
    16-byte loads where the vocabulary is no multiple of 4."""
    if WHOLE:
        return tl.load(logits + columns)
    else:
        return tl.load(logits + columns, mask=columns < COLUMNS, other=-1e30)  # statistics.NO_ENTRIES
