"""What a training loop does to the fused divergence beside the plain call, and the inputs at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from divergence.cases import ONE_EACH, VARIANTS, VOCAB, Outcome, Spec, call, case_of, run_all, run_one
from divergence.conformance import assert_conforms
from paced_megatron.divergence import DivergenceStatistics, divergence_statistics, weighted_divergence
from paced_megatron.divergence.reference import reference_divergence

SHUFFLED = (17, 3, 3, 11, 0, 23, 8)  # out of order, one twice
SPECIAL = {
    "upstream": [Spec(d, p, upstream=-3.0, chunk=7) for d, p in ONE_EACH],
    "squared": [Spec(d, p, temperature=2.5, temperature_squared=True, chunk=8) for d, p in ONE_EACH],
    "main_grad": [
        Spec(d, p, dtype=dtype, main_grad=True, upstream=2.0, chunk=5)
        for d, p in ONE_EACH
        for dtype in ("float64", "bfloat16")
    ],
    "indices": [
        Spec(d, p, indices=SHUFFLED, chunk=3, sequence_parallel=sp)
        for d, p in ONE_EACH
        for sp in (False, True)
    ],
    "one token": [Spec(d, p, indices=(11,), chunk=1) for d, p in ONE_EACH],
    "float16": [Spec(d, p, "float16", forward_kl=0.0066, upstream=1024.0) for d, p in ONE_EACH],
    "equal": [
        Spec(d, p, kind="equal", dtype=dtype, temperature=0.7, chunk=7)
        for d, p in VARIANTS
        for dtype in ("float32", "bfloat16")
    ],
    "no token": [Spec(d, p, indices=(), sequence_parallel=sp) for d, p in ONE_EACH for sp in (False, True)],
    "zero weights": [Spec(d, p, zero_weights=True) for d, p in ONE_EACH],
    "padding only": [
        Spec(d, p, dtype=dtype, rows=VOCAB, chunk=8) for d, p in ONE_EACH for dtype in ("float64", "float32")
    ],
    "extreme": [
        Spec(d, p, kind="extreme", dtype=dtype, chunk=8)
        for d, p in VARIANTS
        for dtype in ("float64", "float32")
    ],
}


Kinds = Callable[[str], list[tuple[Spec, list[Outcome]]]]


@pytest.fixture(scope="module", params=[1, pytest.param(4, marks=pytest.mark.parallel)])
def special(request: pytest.FixtureRequest) -> Kinds:
    """Kind -> its specs with the outcomes of all ranks: in one process, and in a group of four, which runs
    all kinds in one job."""
    if request.param == 1:
        return lambda kind: [(spec, [run_one(spec, 0, 1, None)]) for spec in SPECIAL[kind]]
    specs = [spec for of_kind in SPECIAL.values() for spec in of_kind]
    by_rank = request.getfixturevalue("pool").run(run_all, 4, [((0, 1, 2, 3), specs)], timeout=120)
    found = dict(zip(specs, [list(of_ranks) for of_ranks in zip(*by_rank, strict=True)], strict=True))
    return lambda kind: [(spec, found[spec]) for spec in SPECIAL[kind]]


def test_a_gradient_from_upstream_multiplies_both_gradients(special: Kinds) -> None:
    for spec, outcomes in special("upstream"):
        assert_conforms(spec, outcomes)


def test_temperature_squared_multiplies_loss_and_gradients_and_leaves_the_divergence(special: Kinds) -> None:
    for spec, outcomes in special("squared"):
        assert_conforms(spec, outcomes)


def test_one_token_is_enough(special: Kinds) -> None:
    for spec, outcomes in special("one token"):
        assert_conforms(spec, outcomes)


def test_main_grad_gets_the_heads_gradient_added_and_the_head_gets_none(special: Kinds) -> None:
    """In float32 all the way, also from bf16 models."""
    for spec, outcomes in special("main_grad"):
        assert_conforms(spec, outcomes)


def test_token_indices_choose_tokens_in_their_order_and_a_repeated_one_counts_twice(special: Kinds) -> None:
    for spec, outcomes in special("indices"):
        assert_conforms(spec, outcomes)


def test_a_float16_gradient_is_rounded_after_the_factor_that_is_to_save_its_small_numbers(
    special: Kinds,
) -> None:
    for spec, outcomes in special("float16"):
        assert_conforms(spec, outcomes)


def test_an_equal_teacher_gives_no_divergence_and_no_gradient(special: Kinds) -> None:
    for spec, outcomes in special("equal"):
        for outcome in outcomes:
            assert outcome.result.divergence.abs().max() <= 1e-6, spec
            assert outcome.hidden_grad.abs().max() <= 1e-7, spec
            assert outcome.head_grad.abs().max() <= 1e-7, spec
            assert outcome.result.student_entropy.min() > 0.1, spec


def test_without_a_token_loss_and_gradients_are_zero(special: Kinds) -> None:
    for spec, outcomes in special("no token"):
        for outcome in outcomes:
            assert outcome.result.loss == 0 and outcome.result.divergence.shape == (0,), spec
            assert outcome.hidden_grad.numel() and outcome.hidden_grad.abs().sum() == 0, spec
            assert outcome.head_grad.abs().sum() == 0, spec


def test_weights_of_zero_give_gradients_of_zero_and_the_by_products_all_the_same(special: Kinds) -> None:
    for spec, outcomes in special("zero weights"):
        assert_conforms(spec, outcomes)
        for outcome in outcomes:
            assert outcome.result.loss == 0 and outcome.hidden_grad.abs().sum() == 0, spec
            assert outcome.result.divergence.min() > 1e-5, spec


def test_ranks_that_hold_padding_only_change_nothing(special: Kinds) -> None:
    """The first rank has the whole vocabulary, the other three nothing real."""
    for spec, outcomes in special("padding only"):
        assert_conforms(spec, outcomes)


def test_logits_of_ten_thousand_are_finite_and_right(special: Kinds) -> None:
    for spec, outcomes in special("extreme"):
        case = case_of(spec)
        assert (case.student_hidden @ case.student_head.t()).abs().max() > 1e4
        assert_conforms(spec, outcomes)


# The rest is one process's business.


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_theirs() -> None:
    case, spec = case_of(Spec()), Spec()
    hidden, main_grad = case.student_hidden.clone().requires_grad_(), torch.zeros_like(case.student_head)
    call(student_hidden=hidden, student_head=case.student_head, main_grad=main_grad).loss.backward()
    assert case.student_head.grad is None and main_grad.abs().sum() == 0
    torch.testing.assert_close(hidden.grad, run_one(spec, 0, 1, None).hidden_grad)


def test_frozen_hidden_states_get_no_gradient_and_the_head_its_own() -> None:
    case = case_of(Spec())
    head = case.student_head.clone().requires_grad_()
    call(student_hidden=case.student_hidden, student_head=head).loss.backward()
    expected = run_one(Spec(), 0, 1, None).head_grad[:VOCAB]
    torch.testing.assert_close(head.grad, expected)


@pytest.mark.parametrize("with_main_grad", [False, True])
def test_a_head_that_is_the_embedding_too_gets_both_gradients(with_main_grad: bool) -> None:
    """Tied weights: what comes through the hidden states takes autograd's way, also where the head's own part
    is added to main_grad."""
    case = case_of(Spec())
    totals = []
    for of in (weighted_divergence, reference_divergence):
        embedding = case.student_head.clone().requires_grad_()
        main_grad = torch.zeros_like(case.student_head) if with_main_grad else None
        extra = {"compute_grad": True, "main_grad": main_grad} if of is weighted_divergence else {}
        inputs = (embedding[case.labels].tanh(), embedding, case.teacher_hidden, case.teacher_head)
        of(*inputs, case.weights, divergence="reverse_kl", vocab_size=VOCAB, **extra).loss.backward()
        assert embedding.grad is not None
        added = main_grad if extra and main_grad is not None else 0.0
        totals.append(embedding.grad + added)
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-9, atol=1e-12)


def test_the_teacher_gets_no_gradient() -> None:
    case = case_of(Spec())
    taught, teacher_head = (x.clone().requires_grad_() for x in (case.teacher_hidden, case.teacher_head))
    call(teacher_hidden=taught, teacher_head=teacher_head).loss.backward()
    assert taught.grad is None and teacher_head.grad is None


def test_two_backward_passes_add_up() -> None:
    hidden = case_of(Spec()).student_hidden.clone().requires_grad_()
    loss = call(student_hidden=hidden).loss
    loss.backward(retain_graph=True)
    assert hidden.grad is not None
    once = hidden.grad.clone()
    loss.backward()
    torch.testing.assert_close(hidden.grad, 2 * once)


def test_a_gradient_that_was_handed_out_and_written_to_is_not_handed_out_again() -> None:
    """With 1 from upstream no copy is made; a second backward pass says so instead of being wrong."""
    hidden = case_of(Spec()).student_hidden.clone().requires_grad_()
    loss = call(student_hidden=hidden).loss
    (handed_out,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (again,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    assert torch.equal(handed_out, again)
    handed_out.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_compute_grad_the_numbers_are_the_same_and_the_loss_has_no_graph() -> None:
    for divergence, parameter in ONE_EACH:
        with_grad, without = (
            call(divergence=divergence, parameter=parameter, compute_grad=wanted) for wanted in (True, False)
        )
        assert with_grad.loss.grad_fn is not None and not without.loss.requires_grad
        assert torch.equal(with_grad.loss, without.loss)
        assert torch.equal(with_grad.divergence, without.divergence)


def test_the_statistics_alone_are_those_of_the_weighted_call_and_carry_no_graph() -> None:
    case = case_of(Spec())
    models = {
        "student_hidden": case.student_hidden.clone().requires_grad_(),
        "student_head": case.student_head.clone().requires_grad_(),
        "teacher_hidden": case.teacher_hidden,
        "teacher_head": case.teacher_head,
    }
    asked: dict[str, Any] = {"labels": case.labels[[3, 1]], "token_indices": torch.tensor([3, 1])}
    for divergence, parameter in ONE_EACH:
        asked |= {"divergence": divergence, "parameter": parameter, "temperature": 1.3, "vocab_size": VOCAB}
        alone = divergence_statistics(**models, **asked)
        assert type(alone) is DivergenceStatistics and len(vars(alone)) == 7
        whole = call(weights=case.weights[[3, 1]], **models, **asked)
        for name, value in vars(alone).items():
            assert value.shape == (2,) and not value.requires_grad, name
            assert torch.equal(value, getattr(whole, name)), name
    with pytest.raises(ValueError, match="vocab_size: 204"):
        divergence_statistics(**models, vocab_size=204)


def test_no_by_product_carries_a_graph_and_without_labels_there_are_no_log_probs() -> None:
    result = call()
    assert result.student_log_prob is None and result.teacher_log_prob is None
    given = [value for name, value in vars(result).items() if name != "loss" and value is not None]
    assert len(given) == 5 and not any(value.requires_grad for value in given)


def test_a_label_outside_the_vocabulary_gives_nan() -> None:
    labels = case_of(Spec()).labels.clone()
    labels[:2] = torch.tensor([-100, VOCAB])
    result = call(labels=labels)
    assert result.student_log_prob is not None and result.teacher_log_prob is not None
    assert result.student_log_prob.isnan().nonzero().flatten().tolist() == [0, 1]
    assert result.teacher_log_prob.isnan().nonzero().flatten().tolist() == [0, 1]


def test_autocast_does_not_touch_it() -> None:
    case = case_of(Spec(dtype="float32"))

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, head = (x.clone().requires_grad_() for x in (case.student_hidden, case.student_head))
        result = call(
            student_hidden=hidden,
            student_head=head,
            teacher_hidden=case.teacher_hidden,
            teacher_head=case.teacher_head,
        )
        result.loss.backward()
        assert hidden.grad is not None and head.grad is not None
        return result.divergence, hidden.grad, head.grad

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run()
    assert all(map(torch.equal, plain, mixed))


def test_no_hidden_state_at_all_is_no_token() -> None:
    hidden = torch.zeros(0, 19, dtype=torch.float64, requires_grad=True)
    result = call(student_hidden=hidden, teacher_hidden=torch.zeros(0, 27), weights=torch.zeros(0))
    result.loss.backward()
    assert result.loss == 0 and hidden.grad is not None and hidden.grad.shape == (0, 19)
