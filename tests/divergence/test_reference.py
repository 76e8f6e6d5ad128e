"""The reference is measured by what is more obvious still: a loop, torch.distributions, and finite
differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from paced_megatron.divergence import (
    DIVERGENCES,
    DivergenceResult,
    divergence_statistics,
    weighted_divergence,
)
from paced_megatron.divergence.reference import REFERENCES, head_share, reference_divergence

TOKENS, VOCAB, TEMPERATURE = 4, 7, 1.7
PARAMETER = 0.3


def kl_loop(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mix(share: float, p: Sequence[float], q: Sequence[float]) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def jsd_loop(s: Sequence[float], t: Sequence[float]) -> float:
    m = mix(PARAMETER, t, s)
    return PARAMETER * kl_loop(t, m) + (1 - PARAMETER) * kl_loop(s, m)


def akl_loop(s: Sequence[float], t: Sequence[float], mu: float = PARAMETER) -> float:
    """The official rule, one id after another."""
    gaps, mass = {"head": 0.0, "tail": 0.0}, 0.0
    for place, v in enumerate(sorted(range(len(t)), key=lambda v: -t[v])):
        mass += t[v]
        gaps["head" if mass <= mu or place == 0 else "tail"] += abs(t[v] - s[v])
    share = gaps["head"] / (gaps["head"] + gaps["tail"])
    return share * kl_loop(t, s) + (1 - share) * kl_loop(s, t)


LOOPS = {
    "forward_kl": lambda s, t: kl_loop(t, s),
    "reverse_kl": kl_loop,
    "jsd": jsd_loop,
    "skew_forward_kl": lambda s, t: kl_loop(t, mix(PARAMETER, t, s)),
    "skew_reverse_kl": lambda s, t: kl_loop(s, mix(PARAMETER, s, t)),
    "akl": akl_loop,
}


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    """Hidden sizes 3 and 5, heads with two rows of padding, signed weights."""
    torch.manual_seed(11)
    shapes = [(TOKENS, 3), (VOCAB + 2, 3), (TOKENS, 5), (VOCAB + 2, 5)]
    made = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    return (*made, torch.tensor([0.5, -2.0, 0.0, 1.5], dtype=torch.float64))


def refer(*inputs: Tensor, divergence: str, labels: Tensor | None = None) -> DivergenceResult:
    return reference_divergence(
        *inputs,
        divergence=divergence,
        parameter=PARAMETER,
        temperature=TEMPERATURE,
        vocab_size=VOCAB,
        labels=labels,
    )


def softmax_by_hand(hidden: Tensor, head: Tensor) -> list[list[float]]:
    rows = []
    for token in hidden.tolist():
        terms = [
            math.exp(sum(a * b for a, b in zip(token, row, strict=True)) / TEMPERATURE)
            for row in head[:VOCAB].tolist()
        ]
        rows.append([term / sum(terms) for term in terms])
    return rows


def test_every_divergence_has_a_definition_and_a_loop_here() -> None:
    assert set(DIVERGENCES) == set(REFERENCES) == set(LOOPS)


@pytest.mark.parametrize("divergence", LOOPS)
def test_the_reference_equals_a_loop_over_tokens_and_ids(inputs: tuple[Tensor, ...], divergence: str) -> None:
    student, teacher = softmax_by_hand(*inputs[:2]), softmax_by_hand(*inputs[2:4])
    values = [LOOPS[divergence](s, t) for s, t in zip(student, teacher, strict=True)]
    result = refer(*inputs, divergence=divergence)
    assert result.divergence.tolist() == pytest.approx(values, rel=1e-12)
    assert min(values) > 0.01
    weighted = sum(w * v for w, v in zip(inputs[4].tolist(), values, strict=True))
    assert result.loss.item() == pytest.approx(weighted, rel=1e-12)


def test_the_kls_and_the_by_products_equal_those_of_torch_distributions(inputs: tuple[Tensor, ...]) -> None:
    hidden, head, taught, teacher_head, _ = inputs
    z_s, z_t = hidden @ head[:VOCAB].t() / TEMPERATURE, taught @ teacher_head[:VOCAB].t() / TEMPERATURE
    student, teacher = Categorical(logits=z_s), Categorical(logits=z_t)
    labels = torch.tensor([6, 0, 3, 1])
    result = refer(*inputs, divergence="forward_kl", labels=labels)
    expected = {
        "divergence": kl_divergence(teacher, student),
        "student_entropy": student.entropy(),
        "teacher_entropy": teacher.entropy(),
        "student_log_normalizer": z_s.exp().sum(-1).log(),
        "teacher_log_normalizer": z_t.exp().sum(-1).log(),
        "student_log_prob": student.log_prob(labels),
        "teacher_log_prob": teacher.log_prob(labels),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(result, name), value, rtol=1e-12, atol=1e-12, msg=name)
        assert not getattr(result, name).requires_grad
    reverse = refer(*inputs, divergence="reverse_kl").divergence
    torch.testing.assert_close(reverse, kl_divergence(student, teacher), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("divergence", sorted(set(LOOPS) - {"akl"}))  # its shares are constants: test_fused
def test_the_references_gradient_agrees_with_finite_differences(
    inputs: tuple[Tensor, ...], divergence: str
) -> None:
    hidden, head = (x.clone().requires_grad_() for x in inputs[:2])
    assert torch.autograd.gradcheck(
        lambda h, w: refer(h, w, *inputs[2:], divergence=divergence).loss, (hidden, head)
    )


def test_a_label_outside_the_vocabulary_gives_nan_and_the_others_are_as_before(
    inputs: tuple[Tensor, ...],
) -> None:
    result = refer(*inputs, divergence="forward_kl", labels=torch.tensor([-100, VOCAB, 2, 3]))
    assert result.student_log_prob is not None and result.teacher_log_prob is not None
    assert result.student_log_prob.isnan().tolist() == [True, True, False, False]
    assert result.teacher_log_prob.isnan().tolist() == [True, True, False, False]


def share_of(t: list[float], s: list[float], mu: float = 0.5) -> float:
    log_s, log_t = (torch.tensor([p], dtype=torch.float64).log() for p in (s, t))
    return head_share(log_s, log_t, mu).item()


def fused_share(t: list[float], s: list[float], mu: float = 0.5) -> float:
    """What the fused AKL makes of two distributions: solved for in D = h FKL + (1 - h) RKL."""
    logits = [torch.tensor([p], dtype=torch.float64).log() for p in (s, t)]
    eye = torch.eye(len(t), dtype=torch.float64)
    forward, reverse, akl = (
        divergence_statistics(
            logits[0], eye, logits[1], eye, divergence=name, parameter=parameter, vocab_size=len(t)
        ).divergence.item()
        for name, parameter in (("forward_kl", None), ("reverse_kl", None), ("akl", mu))
    )
    return (akl - reverse) / (forward - reverse)


@pytest.mark.parametrize("share", [share_of, fused_share])
def test_akl_parts_head_and_tail_by_the_official_rule_and_keeps_ties_together(
    share: Callable[..., float],
) -> None:
    """The likeliest id is the head though it has more than mu; KDFlow's swapped rule says 1 here."""
    assert share([0.9, 0.06, 0.04], [0.5, 0.3, 0.2]) == pytest.approx(0.5, rel=1e-9)
    # .4 + .25 is more than .6: the head is the first id, gaps .2 of .55. At .7 it is the first two.
    t, s = [0.25, 0.4, 0.2, 0.15], [0.1, 0.2, 0.275, 0.425]
    assert share(t, s, 0.6) == pytest.approx(0.2 / 0.7, rel=1e-9)
    assert share(t, s, 0.7) == pytest.approx(0.35 / 0.7, rel=1e-9)
    # Two equal ones do not both fit: neither is in the head. As the likeliest both are.
    t, s = [0.4, 0.2, 0.2, 0.2], [0.1, 0.3, 0.5, 0.1]
    assert share(t, s, 0.7) == pytest.approx(0.3 / 0.8, rel=1e-9)
    assert share([0.4, 0.4, 0.2], [0.1, 0.3, 0.6]) == pytest.approx(0.4 / 0.8, rel=1e-9)


def test_akl_of_equal_models_is_half_and_half() -> None:
    assert share_of([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]) == 0.5


def test_jsd_goes_to_the_forward_kl_at_beta_0_and_to_the_reverse_kl_at_beta_1(
    inputs: tuple[Tensor, ...],
) -> None:
    def fused(divergence: str, beta: float | None = None) -> tuple[Tensor, Tensor]:
        hidden = inputs[0].clone().requires_grad_()
        result = weighted_divergence(
            hidden,
            *inputs[1:],
            divergence=divergence,
            parameter=beta,
            vocab_size=VOCAB,
            compute_grad=True,
        )
        result.loss.backward()
        assert hidden.grad is not None
        return result.divergence, hidden.grad

    for beta, factor, limit in ((1e-7, 1e-7, "forward_kl"), (1 - 1e-7, 1e-7, "reverse_kl")):
        for ours, theirs in zip(fused("jsd", beta), fused(limit), strict=True):
            torch.testing.assert_close(ours / factor, theirs, rtol=1e-4, atol=1e-6)
