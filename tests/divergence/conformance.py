"""Comparing what the ranks of a group got with the one-process float64 reference."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from divergence.cases import MAIN_GRAD, TOKENS, VOCAB, Outcome, Spec, case_of
from paced_megatron.divergence import DivergenceResult
from paced_megatron.divergence.reference import reference_divergence

PER_TOKEN = (
    "divergence",
    "student_entropy",
    "teacher_entropy",
    "student_log_normalizer",
    "teacher_log_normalizer",
    "student_log_prob",
    "teacher_log_prob",
)


def gradient_bar(spec: Spec, dtype: torch.dtype) -> float:
    """The largest relative error of a gradient of this dtype: what float32 can do, and bf16's own
    rounding."""
    if dtype == torch.float64:
        return 1e-10
    if spec.tensor_cores:
        return 4e-3  # the logit gradient in bf16
    if dtype == torch.bfloat16:
        return 3.5e-3
    if dtype == torch.float16:
        return 5e-4
    if spec.kind == "extreme":
        return 1e-3  # the +-100 that all likely ids have in common cancels; float32 leaves 1e-7 of 100 x 1e4
    return 2e-5 if spec.forward_kl >= 1 else 1e-4


@cache
def _reference(spec: Spec) -> tuple[DivergenceResult, Tensor, Tensor]:
    """The result, the hidden gradient [N, H] and the head's gradient [V, H], in float64."""
    case = case_of(spec)
    hidden = case.student_hidden.double().clone().requires_grad_()
    head = case.student_head.double().clone().requires_grad_()
    chosen = slice(None) if spec.indices is None else torch.tensor(spec.indices, dtype=torch.int64)
    result = reference_divergence(
        hidden[chosen],
        head,
        case.teacher_hidden[chosen],
        case.teacher_head,
        (0.0 if spec.zero_weights else 1.0) * case.weights[chosen],
        divergence=spec.divergence,
        parameter=spec.parameter or 0.5,
        temperature=spec.temperature,
        vocab_size=VOCAB,
        labels=case.labels[chosen],
    )
    factor = spec.temperature**2 if spec.temperature_squared else 1.0
    (spec.upstream * factor * result.loss).backward()
    result = replace(result, loss=factor * result.loss.detach())
    assert hidden.grad is not None and head.grad is not None
    return result, hidden.grad, head.grad


def reference_of(spec: Spec) -> tuple[DivergenceResult, Tensor, Tensor]:
    """Computed once for all the layouts of a case."""
    alike = replace(spec, chunk=TOKENS, sequence_parallel=False, rows=None, main_grad=False)
    return _reference(replace(alike, tensor_cores=False, pipelined=False))


def assert_conforms(spec: Spec, outcomes: list[Outcome]) -> None:
    """Value, by-products and gradients of every rank against the reference."""
    expected, hidden_grad, head_grad = reference_of(spec)
    if spec.kind == "drawn":
        given = reference_of(replace(spec, divergence="forward_kl", parameter=None, indices=None))[0]
        forward_kl = given.divergence.mean().item()
        assert abs(forward_kl / spec.forward_kl - 1) < 0.01, f"the case has a forward KL of {forward_kl}"

    exact = spec.dtype == "float64"
    for rank, outcome in enumerate(outcomes):
        for name in ("loss", *PER_TOKEN):
            ours, theirs = getattr(outcome.result, name), getattr(expected, name).detach()
            assert ours.dtype == (torch.float64 if exact else torch.float32), name
            # Entropies, normalisers and a KL's terms are sums of a few nats: float32 leaves 1e-6 of that.
            rtol, atol = (1e-10, 1e-11) if exact else (2e-6, 3e-6)
            if not exact and name == "divergence" and spec.kind == "drawn":
                atol = 1e-6
            error = (ours.double() - theirs).abs() - rtol * theirs.abs()
            assert (error <= atol).all(), f"{name} is off by {error.max():.1e} on rank {rank}: {spec}"

    if spec.sequence_parallel:
        assert_near(spec, "hidden gradient", torch.cat([o.hidden_grad for o in outcomes]), hidden_grad)
    else:
        for outcome in outcomes:
            assert_near(spec, "hidden gradient", outcome.hidden_grad, hidden_grad)

    if spec.main_grad:
        assert all(o.head_grad is None for o in outcomes), "autograd is to give the head nothing"
        ours = torch.cat([o.main_grad for o in outcomes]) - MAIN_GRAD
    else:
        ours = torch.cat([o.head_grad for o in outcomes])
    assert_near(spec, "head gradient", ours[:VOCAB], head_grad)
    assert ours[VOCAB:].abs().sum() == 0, f"padding rows got a gradient: {spec}"


def assert_near(spec: Spec, what: str, ours: Tensor | None, theirs: Tensor) -> None:
    """A bf16 gradient also has to be the bf16 nearest to the true one, but for a few that lie in the middle:
    only then were its sums over chunks and ranks kept in float32.
    """
    assert ours is not None and ours.shape == theirs.shape, f"{what} of {spec}"
    size = theirs.norm().item() or 1.0
    error = (ours.double() - theirs).norm().item() / size
    assert error <= gradient_bar(spec, ours.dtype), f"{what} is off by {error:.1e} of its size: {spec}"
    if ours.dtype == torch.bfloat16 and not spec.tensor_cores:
        beyond = (ours.double() - theirs.bfloat16().double()).norm().item() / size
        bar = 5e-4 if spec.forward_kl > 0.001 else 1e-3  # float32's own error moves more values over a middle
        assert beyond <= bar, f"{what} is off by {beyond:.1e} beyond the rounding of its result: {spec}"
