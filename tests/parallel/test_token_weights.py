"""Token weights that need the whole batch's numbers give the gradient of transformers in float64, with nu
worked out by hand here, at every layout and for every micro-batch split."""

from __future__ import annotations

import math
import os
from unittest import mock

import numpy as np
import pytest
import torch
from megatron.core import parallel_state

from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.training import step as step_module
from paced_megatron.training import token_pass
from paced_megatron.training.finite import LossNotFinite
from paced_megatron.training.token_weights import TokenStatistics, TokenWeights
from parallel.layouts import DP, ONE, OVERLAP, PACKED, PP, SP, TP, VPP, Row
from parallel.parity import BATCH_SIZE, Parity, examples_of, relative_error, texts
from parallel.reference_step import reference_step
from parallel.step_ranks import step_gradients

pytestmark = pytest.mark.parallel

KEPT, KL, DIVERGENCE = 0.4, 1.0, "reverse_kl"
TIP = {"token_weights": "tip", "token_weights_kept": KEPT}


def _tip_by_hand(numbers):
    """TIP's rule in numpy, over the texts that have a weight."""
    counts = [weight != 0 for *_, weight in texts()]
    batch = [one for one, weighted in zip(numbers, counts, strict=True) if weighted]
    entropy = np.concatenate([one.student_entropy.numpy() for one in batch])
    distance = np.concatenate([one.divergence.numpy() for one in batch])
    cut = np.quantile(entropy, 0.98)
    entropy = np.minimum(entropy, cut)
    weights = []
    for one, weighted in zip(numbers, counts, strict=True):
        h = (np.minimum(one.student_entropy.numpy(), cut) - entropy.min()) / (entropy.max() - entropy.min())
        d = (one.divergence.numpy() - distance.min()) / (distance.max() - distance.min())
        score, length = 1 - (1 - h) * (1 - d), len(h)
        count = max(math.floor(KEPT * length), 1)
        last = sorted(score, reverse=True)[count - 1]
        weights.append(torch.tensor(np.where(score >= last, length / count, 0.0) * weighted))
    return weights


def centred_advantage(statistics: TokenStatistics) -> torch.Tensor:
    """A row of this test's own: log p_T - log p_S of the text's token less its mean over the batch. Half of
    the tokens have a negative one."""
    advantage = statistics.teacher_log_prob - statistics.student_log_prob
    return advantage - advantage.mean()


def _centred_advantage_by_hand(numbers):
    counts = [weight != 0 for *_, weight in texts()]
    advantages = [one.teacher_log_prob - one.student_log_prob for one in numbers]
    mean = torch.cat([one for one, weighted in zip(advantages, counts, strict=True) if weighted]).mean()
    return [one - mean for one in advantages]


def teacher_is_surer(statistics: TokenStatistics) -> torch.Tensor:
    """A row of this test's own that needs nothing of other tokens: +1 where the teacher's entropy is below
    the student's, -0.25 elsewhere, 0 where the teacher has the text's token for less likely."""
    sign = torch.where(statistics.teacher_entropy < statistics.student_entropy, 1.0, -0.25).double()
    return sign * (statistics.teacher_log_prob >= statistics.student_log_prob)


def _teacher_is_surer_by_hand(numbers):
    return [
        torch.tensor(
            [
                0.0
                if float(one.teacher_log_prob[t]) < float(one.student_log_prob[t])
                else 1.0
                if float(one.teacher_entropy[t]) < float(one.student_entropy[t])
                else -0.25
                for t in range(len(one.divergence))
            ],
            dtype=torch.float64,
        )
        for one in numbers
    ]


SIGNED = TokenWeights(centred_advantage, whole_batch=True)
LOCAL = TokenWeights(teacher_is_surer, whole_batch=False)
LAYOUTS = [
    Row("micro batches of 1", training=ONE, quick=True),
    Row("micro batches of 4", training={"micro_batch_size": 4}, quick=True),
    Row("TP 2, SP, packed", {TP: 2, **SP}, PACKED, quick=True),
    Row("DP 2, overlapped", {DP: 2, **OVERLAP}, ONE, quick=True),
    Row("PP 2", {PP: 2}, ONE, quick=True),
    Row("PP 2, VPP 2", {PP: 2, VPP: 2}),
    Row("PP 2, DP 2, recomputed", {PP: 2, DP: 2}, {**ONE, "recompute_granularity": "full"}),
]
SHOWN = [row for row in LAYOUTS if row.quick or os.environ.get("PACED_FULL_PARITY") == "1"]


@pytest.fixture(scope="module")
def parity(pool, tmp_path_factory) -> Parity:
    return Parity(pool, tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def truths(parity):
    """By name (loss, gradient, nu) of the reference; the models' KL is 1."""
    student, teacher = parity.folders("untied", KL)
    found = {}
    for name, rule in (
        ("tip", _tip_by_hand),
        ("signed", _centred_advantage_by_hand),
        ("local", _teacher_is_surer_by_hand),
    ):
        seen = []

        def token_weights(numbers, rule=rule, seen=seen):
            seen.append(rule(numbers))
            return seen[-1]

        loss, gradient, _ = reference_step(
            student,
            teacher,
            texts(),
            divergence=DIVERGENCE,
            denominator=BATCH_SIZE,
            token_weights=token_weights,
        )
        found[name] = loss, gradient, torch.cat(seen[0])
    return found


def test_the_methods_differ_and_have_tokens_of_0_and_negative_ones(truths):
    tip, signed, local = (truths[name][2] for name in ("tip", "signed", "local"))
    assert (tip == 0).any() and (tip > 0).any()
    assert (signed < 0).any() and (signed > 0).any()
    assert {-0.25, 0.0, 1.0} == set(local.tolist())
    losses = [truths[name][0] for name in truths]
    assert len({round(loss, 6) for loss in losses}) == 3


@pytest.mark.parametrize("row", SHOWN, ids=str)
def test_the_gradient_is_that_of_transformers_with_the_weights_worked_out_by_hand(parity, truths, row):
    training = {**row.training}
    cases = {
        "tip": Row("", row.parallel, training | TIP).case(divergence=DIVERGENCE),
        "signed": row.case(divergence=DIVERGENCE, token_weights=SIGNED),
        "local": row.case(divergence=DIVERGENCE, token_weights=LOCAL),
        "plain": row.case(divergence=DIVERGENCE),
    }
    *found, plain = parity.run(row, [(KL, case) for case in cases.values()])
    for name, step in zip(truths, found, strict=True):
        loss, gradient, _ = truths[name]
        assert step.sums.loss == pytest.approx(loss, rel=1e-9), name
        assert relative_error(step.gradient, gradient) <= 1e-9, name
        # What is logged is of all tokens, those without weight included.
        assert step.sums.tokens == plain.sums.tokens == sum(len(response) for _, response, _ in texts())
        assert step.sums.divergence == pytest.approx(plain.sums.divergence, rel=1e-9)
        assert step.sums.student_entropy == pytest.approx(plain.sums.student_entropy, rel=1e-9)
    lengths = [len(response) for _, response, weight in texts() if weight != 0]
    assert plain.sums.kept == sum(lengths) < plain.sums.tokens
    assert found[0].sums.kept == sum(max(math.floor(KEPT * length), 1) for length in lengths)


def test_leaving_out_the_text_of_weight_0_changes_nothing(parity, truths):
    """It would, if its tokens were among those that quantile and range are taken of."""
    kept = [text for text in texts() if text[2] != 0]
    row = Row("", training=TIP)
    job = (*parity.folders("untied", KL), examples_of(kept), row.case(divergence=DIVERGENCE))
    (found,) = parity._run(1, [job])
    assert relative_error(found.gradient, truths["tip"][1]) <= 1e-9


def costs(rank: int, world_size: int, works) -> list[tuple[int, int]]:
    """Of each work how often a model has run forward, teacher and student together, and for how many tokens
    the loss was multiplied with the vocabulary."""
    counts = []
    forward, divergence = HiddenStatesModel.forward, step_module.weighted_divergence
    for work in works:
        calls: list[int] = []
        tokens: list[int] = []

        def counted(self, *args, calls=calls, **kwargs):
            calls.append(1)
            return forward(self, *args, **kwargs)

        def counted_tokens(*args, tokens=tokens, **kwargs):
            result = divergence(*args, **kwargs)
            tokens.append(result.divergence.numel())
            return result

        with (
            mock.patch.object(HiddenStatesModel, "forward", counted),
            mock.patch.object(step_module, "weighted_divergence", counted_tokens),
        ):
            step_gradients(rank, world_size, [work])
        counts.append((sum(calls), sum(tokens)))
    return counts


def test_one_forward_pass_more_where_the_whole_batch_is_asked_for_and_none_elsewhere(parity, truths):
    """And the loss looks at the tokens that have a weight, no others."""
    folders = parity.folders("untied", KL)
    micro_batches = 3  # six texts, two at a time
    cases = [
        Row("").case(divergence=DIVERGENCE),
        Row("", training={"token_weights": "none"}).case(divergence=DIVERGENCE),
        Row("").case(divergence=DIVERGENCE, token_weights=LOCAL),
        Row("", training=TIP).case(divergence=DIVERGENCE),
    ]
    (counts,) = parity.pool.run(costs, 1, [(*folders, examples_of(texts()), case) for case in cases])
    all_tokens = sum(len(response) for _, response, _ in texts())
    weights = torch.tensor([weight for _, response, weight in texts() for _ in response])
    local, tip = (int((truths[name][2] * weights).count_nonzero()) for name in ("local", "tip"))
    assert tip < all_tokens / 2
    plain = (2 * micro_batches, all_tokens)
    assert counts == [plain, plain, (2 * micro_batches, local), (3 * micro_batches, tip)]


def first_problem_not_finite(rank: int, world_size: int, work) -> list[str]:
    """What each rank says when a number of a token that TIP might leave out is NaN on rank 1."""
    statistics = token_pass.divergence_statistics

    def spoiled(*args, **kwargs):
        found = statistics(*args, **kwargs)
        found.student_entropy[0] = torch.nan
        return found

    with mock.patch.object(token_pass, "divergence_statistics", spoiled if rank == 1 else statistics):
        try:
            step_gradients(rank, world_size, [work])
        except LossNotFinite as error:
            parallel_state.destroy_model_parallel()
            return error.problem_ids
    return ["nothing was raised"]


def test_a_token_whose_numbers_are_not_finite_ends_the_step_on_all_ranks(parity):
    row = Row("", {DP: 2}, {"micro_batch_size": 4} | TIP)
    work = (*parity.folders("untied", KL), examples_of(texts()), row.case(divergence=DIVERGENCE))
    assert parity.pool.run(first_problem_not_finite, 2, work) == [[], ["p1", "p3", "p5"]]
