"""The table: every divergence in every layout against the one-process float64 reference."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import pytest
import torch

from divergence.cases import ONE_EACH, TOKENS, VARIANTS, Outcome, Spec, run_all, run_one
from divergence.conformance import assert_conforms
from paced_megatron.divergence import DIVERGENCES, weighted_divergence
from paced_megatron.divergence.reference import head_share, kl

# (dtype of the hidden states and heads, forward KL in nats per token)
PRECISIONS = [
    ("float64", 1.0),
    *((dtype, forward_kl) for dtype in ("float32", "bfloat16") for forward_kl in (1.0, 0.0066, 0.0007)),
]
# (tokens in a chunk, sequence parallelism) at each temperature; 7 does not divide. Six layouts take three
# minutes in groups, so without PACED_FULL_CONFORMANCE=1 each temperature has a few of them.
FULL = os.environ.get("PACED_FULL_CONFORMANCE") == "1"
LAYOUTS = {1.0: ((8, True), (7, False)), 2.5: ((TOKENS, False), (7, True))}
if FULL:
    LAYOUTS = dict.fromkeys(LAYOUTS, tuple(product((TOKENS, 8, 7), (False, True))))
GROUPS = (1, 2, 4)


def table() -> list[Spec]:
    return [
        Spec(
            divergence=divergence,
            parameter=parameter,
            dtype=dtype,
            forward_kl=forward_kl,
            temperature=temperature,
            chunk=chunk,
            sequence_parallel=sequence_parallel,
        )
        for (divergence, parameter), (dtype, forward_kl), temperature in product(
            VARIANTS, PRECISIONS, LAYOUTS
        )
        for chunk, sequence_parallel in LAYOUTS[temperature]
    ]


def run_in_group(pool: Any, world_size: int, specs: list[Spec]) -> list[list[Outcome]]:
    """For each spec the outcomes of all ranks."""
    by_rank = pool.run(run_all, world_size, [(tuple(range(world_size)), specs)], timeout=600 if FULL else 200)
    return [list(outcomes) for outcomes in zip(*by_rank, strict=True)]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Any:
    """Specs and a group size -> the outcomes. A group runs its whole table in one job when first asked; one
    process runs what it is asked for."""
    done: dict[int, dict[Spec, list[Outcome]]] = {}

    def of(specs: list[Spec], world_size: int) -> list[list[Outcome]]:
        if world_size == 1:
            return [[run_one(spec, 0, 1, None)] for spec in specs]
        if world_size not in done:
            results = run_in_group(request.getfixturevalue("pool"), world_size, table())
            done[world_size] = dict(zip(table(), results, strict=True))
        return [done[world_size][spec] for spec in specs]

    return of


def test_the_table_has_every_divergence() -> None:
    assert {name for name, _ in VARIANTS} == set(DIVERGENCES)


@pytest.mark.parametrize(
    "world_size", [pytest.param(n, marks=pytest.mark.parallel if n > 1 else ()) for n in GROUPS]
)
@pytest.mark.parametrize(("dtype", "forward_kl"), PRECISIONS)
@pytest.mark.parametrize(("divergence", "parameter"), VARIANTS)
def test_value_by_products_and_gradients_equal_the_reference(
    outcomes: Any, divergence: str, parameter: float | None, dtype: str, forward_kl: float, world_size: int
) -> None:
    """At both temperatures, in chunks of every size, with and without sequence parallelism."""
    row = (divergence, parameter, dtype, forward_kl)
    mine = [s for s in table() if (s.divergence, s.parameter, s.dtype, s.forward_kl) == row]
    assert len(mine) == sum(map(len, LAYOUTS.values()))
    for spec, got in zip(mine, outcomes(mine, world_size), strict=True):
        assert_conforms(spec, got)


@pytest.mark.parametrize("temperature", LAYOUTS)
@pytest.mark.parametrize(("divergence", "parameter"), VARIANTS)
def test_gradcheck_passes(divergence: str, parameter: float | None, temperature: float) -> None:
    """AKL's with its shares frozen: the value moves as they would if they stayed, the gradient is AKL's."""
    torch.manual_seed(3)
    hidden, head, taught, teacher_head = (
        torch.randn(*shape, dtype=torch.float64) for shape in [(5, 3), (8, 3), (5, 4), (8, 4)]
    )
    weights = torch.tensor([0.5, -2.0, 0.0, 1.5, 1.0], dtype=torch.float64)

    def log_probs(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(hidden @ head[:7].t() / temperature, dim=-1)

    log_t = log_probs(taught, teacher_head)
    share = head_share(log_probs(hidden, head), log_t, 0.5)
    assert share.min() < 0.45 or share.max() > 0.55

    def loss(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        loss = weighted_divergence(
            hidden,
            head,
            taught,
            teacher_head,
            weights,
            divergence=divergence,
            parameter=parameter,
            temperature=temperature,
            vocab_size=7,
            compute_grad=True,
            workspace_mb=1e-3,
        ).loss
        if divergence == "akl":
            log_s = log_probs(hidden, head).detach()
            frozen = share * kl(log_t, log_s) + (1 - share) * kl(log_s, log_t)
            loss = loss + ((weights * frozen).sum() - loss.detach())
        return loss

    assert torch.autograd.gradcheck(loss, (hidden.requires_grad_(), head.requires_grad_()))


@pytest.mark.parallel
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_group_of_ranks_1_and_3_is_right_while_ranks_0_and_2_run_another_batch(
    pool: Any, divergence: str
) -> None:
    theirs = [Spec(d, p, chunk=5, seed=8, sequence_parallel=True) for d, p in ONE_EACH if d != "akl"]
    mine = [(d, p) for d, p in VARIANTS if d == divergence]
    ours = [Spec(d, p, chunk=7, seed=9, sequence_parallel=sp) for d, p in mine for sp in (False, True)]
    by_rank = pool.run(run_all, 4, [((0, 2), theirs), ((1, 3), ours)])
    for specs, members in ((theirs, (0, 2)), (ours, (1, 3))):
        for number, spec in enumerate(specs):
            assert_conforms(spec, [by_rank[rank][number] for rank in members])
