"""The reference is measured by what is more obvious still: a loop, torch.distributions, and finite
differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from paced_megatron.divergence import DIVERGENCES, DivergenceResult
from paced_megatron.divergence.reference import REFERENCES, reference_divergence

TOKENS, VOCAB, TEMPERATURE = 4, 7, 1.7
LOOPS = {
    "forward_kl": lambda s, t: sum(q * math.log(q / p) for p, q in zip(s, t, strict=True)),
    "reverse_kl": lambda s, t: sum(p * math.log(p / q) for p, q in zip(s, t, strict=True)),
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
        *inputs, divergence=divergence, temperature=TEMPERATURE, vocab_size=VOCAB, labels=labels
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


@pytest.mark.parametrize("divergence", LOOPS)
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
