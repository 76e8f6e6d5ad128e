"""The table: every divergence in every layout against the one-process float64 reference."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from divergence.cases import TOKENS, Outcome, Spec, run_all, run_one
from divergence.conformance import assert_conforms
from paced_megatron.divergence import DIVERGENCES, weighted_divergence

# (dtype of the hidden states and heads, forward KL in nats per token)
PRECISIONS = [
    ("float64", 1.0),
    ("float32", 1.0),
    ("float32", 0.0066),
    ("bfloat16", 1.0),
    ("bfloat16", 0.0066),
]
TEMPERATURES = (1.0, 2.5)
# (tokens in a chunk, sequence parallelism); 7 does not divide
LAYOUTS = ((TOKENS, False), (8, False), (7, False), (7, True))
GROUPS = (1, 2, 4)


def table(world_size: int) -> list[Spec]:
    return [
        Spec(
            divergence=divergence,
            dtype=dtype,
            forward_kl=forward_kl,
            temperature=temperature,
            chunk=chunk,
            sequence_parallel=sequence_parallel,
        )
        for divergence, (dtype, forward_kl), temperature, (chunk, sequence_parallel) in product(
            DIVERGENCES, PRECISIONS, TEMPERATURES, LAYOUTS
        )
    ]


def run_in_group(pool: Any, world_size: int, specs: list[Spec]) -> list[list[Outcome]]:
    """For each spec the outcomes of all ranks."""
    by_rank = pool.run(run_all, world_size, [(tuple(range(world_size)), specs)], timeout=120)
    return [list(outcomes) for outcomes in zip(*by_rank, strict=True)]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Any:
    """All of a group size's table in one job, run when first asked for."""
    done: dict[int, dict[Spec, list[Outcome]]] = {}

    def of(world_size: int) -> dict[Spec, list[Outcome]]:
        if world_size not in done:
            specs = table(world_size)
            if world_size == 1:
                results = [[run_one(spec, 0, 1, None)] for spec in specs]
            else:
                results = run_in_group(request.getfixturevalue("pool"), world_size, specs)
            done[world_size] = dict(zip(specs, results, strict=True))
        return done[world_size]

    return of


@pytest.mark.parametrize(
    "world_size", [pytest.param(n, marks=pytest.mark.parallel if n > 1 else ()) for n in GROUPS]
)
@pytest.mark.parametrize(("dtype", "forward_kl"), PRECISIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_value_by_products_and_gradients_equal_the_reference(
    outcomes: Any, divergence: str, dtype: str, forward_kl: float, world_size: int
) -> None:
    """At both temperatures, in chunks of every size, with and without sequence parallelism."""
    mine = {
        spec: got
        for spec, got in outcomes(world_size).items()
        if (spec.divergence, spec.dtype, spec.forward_kl) == (divergence, dtype, forward_kl)
    }
    assert len(mine) == len(TEMPERATURES) * len(LAYOUTS)
    for spec, got in mine.items():
        assert_conforms(spec, got)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck_passes(divergence: str, temperature: float) -> None:
    torch.manual_seed(3)
    hidden, head, taught, teacher_head = (
        torch.randn(*shape, dtype=torch.float64) for shape in [(5, 3), (8, 3), (5, 4), (8, 4)]
    )
    weights = torch.tensor([0.5, -2.0, 0.0, 1.5, 1.0], dtype=torch.float64)

    def loss(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return weighted_divergence(
            hidden,
            head,
            taught,
            teacher_head,
            weights,
            divergence=divergence,
            temperature=temperature,
            vocab_size=7,
            compute_grad=True,
            workspace_mb=1e-3,
        ).loss

    assert torch.autograd.gradcheck(loss, (hidden.requires_grad_(), head.requires_grad_()))


@pytest.mark.parallel
def test_a_group_of_ranks_1_and_3_is_right_while_ranks_0_and_2_run_another_batch(pool: Any) -> None:
    theirs = [Spec(divergence=d, chunk=5, seed=8, sequence_parallel=True) for d in DIVERGENCES]
    ours = [
        Spec(divergence=d, chunk=7, seed=9, sequence_parallel=sp) for d in DIVERGENCES for sp in (False, True)
    ]
    by_rank = pool.run(run_all, 4, [((0, 2), theirs), ((1, 3), ours)])
    for specs, members in ((theirs, (0, 2)), (ours, (1, 3))):
        for number, spec in enumerate(specs):
            assert_conforms(spec, [by_rank[rank][number] for rank in members])
