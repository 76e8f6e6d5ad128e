"""The cases that the fused divergence is tried on, and the function that runs them on one rank of a group.

A case is made anew, alike, on every rank and in the test itself, from its spec: nothing large is sent around.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from paced_megatron.divergence import DivergenceResult, prepare, weighted_divergence
from paced_megatron.divergence.choice import Machine, choose
from paced_megatron.divergence.reference import reference_divergence
from paced_megatron.divergence.workspace import Workspace

# All sizes differ, and none but TOKENS is divided by 2 or 4.
TOKENS, VOCAB, STUDENT_SIZE, TEACHER_SIZE = 24, 203, 19, 27
# Head rows a rank; the last rank has padding, which is filled with garbage, and of eight nothing else.
ROWS = {1: 210, 2: 110, 4: 60, 8: 30}
GARBAGE = 1e3
MAIN_GRAD = 2.0**-6  # what is there before; small, as float32 rounds the sum
# Every divergence with the parameters it is tried at, and one of each.
VARIANTS: list[tuple[str, float | None]] = [
    ("forward_kl", None),
    ("reverse_kl", None),
    *((name, x) for name in ("jsd", "skew_forward_kl", "skew_reverse_kl") for x in (0.1, 0.5, 0.9)),
    ("akl", 0.5),
]
ONE_EACH: list[tuple[str, float | None]] = list(
    {name: (name, parameter) for name, parameter in VARIANTS}.values()
)


@dataclass(frozen=True)
class Spec:
    """One call of the fused divergence, on all ranks of a group."""

    divergence: str = "forward_kl"
    parameter: float | None = None
    dtype: str = "float64"
    kind: str = "drawn"
    """drawn: to a forward KL; equal: the teacher is the student; extreme: logits of +-1e4"""
    forward_kl: float = 1.0
    """nats per token, for kind drawn"""
    temperature: float = 1.0
    chunk: int = TOKENS
    """tokens in one"""
    sequence_parallel: bool = False
    rows: int | None = None
    """of the head on each rank, where not ROWS"""
    indices: tuple[int, ...] | None = None
    zero_weights: bool = False
    upstream: float = 1.0
    temperature_squared: bool = False
    main_grad: bool = False
    seed: int = 5
    tensor_cores: bool = False
    """the products of a GPU, which are widened on a CPU: what is rounded there is rounded here"""
    pipelined: bool = False
    """the walk of a GPU at tensor parallelism"""


@dataclass(frozen=True)
class Case:
    """What one process would hold: heads of exactly VOCAB rows."""

    student_hidden: Tensor
    student_head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor
    weights: Tensor
    labels: Tensor


@cache
def draw(dtype: str, kind: str, forward_kl: float, temperature: float, seed: int) -> Case:
    """Rounded to dtype first, so that both sides of a comparison begin from the same numbers."""
    of = getattr(torch, dtype)
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    hidden, head = normal(TOKENS, STUDENT_SIZE).to(of), (0.5 * normal(VOCAB, STUDENT_SIZE)).to(of)
    weights = normal(TOKENS) / TOKENS
    weights[::5] = 0.0
    labels = torch.randint(VOCAB, (TOKENS,), generator=random)
    if kind == "equal":
        return Case(hidden, head, hidden.clone(), head.clone(), weights, labels)
    if kind == "extreme":
        # +-1e4, and half of the ids within some nats of the highest; to the teacher one id in three is at
        # the other end, and the last tokens have one id only.
        ends, low = 100.0 * normal(VOCAB).sign(), torch.randint(-3, 4, (VOCAB,), generator=random)
        flipped = torch.where(torch.rand(VOCAB, generator=random) < 1 / 3, -ends, ends)
        hidden = torch.tensor([100.0, 1.0]) * normal(TOKENS, 2).sign()
        taught = hidden.clone()
        taught[-6:, 1] = 50.0
        teacher_low = torch.randint(-100, 101, (VOCAB,), generator=random)
        heads = [torch.stack(columns, dim=1).to(of) for columns in ((ends, low), (flipped, teacher_low))]
        return Case(hidden.to(of), heads[0], taught.to(of), heads[1], weights, labels)

    # The teacher's logits are the student's and a disturbance of the strength that gives the wanted KL.
    extra = TEACHER_SIZE - STUDENT_SIZE
    order = torch.randperm(TEACHER_SIZE, generator=random)
    more_hidden, more_head = normal(TOKENS, extra).to(of), normal(VOCAB, extra)

    def teacher_of(strength: float) -> tuple[Tensor, Tensor]:
        taught = torch.cat([head, (strength * more_head).to(of)], dim=1)
        return torch.cat([hidden, more_hidden], dim=1)[:, order], taught[:, order]

    weaker, stronger = 0.0, 8.0
    for _ in range(40):
        middle = (weaker + stronger) / 2
        result = reference_divergence(
            hidden, head, *teacher_of(middle), weights,
            divergence="forward_kl", temperature=temperature, vocab_size=VOCAB,
        )  # fmt: skip
        weak = result.divergence.mean() < forward_kl
        weaker, stronger = (middle, stronger) if weak else (weaker, middle)
    return Case(hidden, head, *teacher_of(stronger), weights, labels)


def case_of(spec: Spec) -> Case:
    return draw(spec.dtype, spec.kind, spec.forward_kl, spec.temperature, spec.seed)


def padded(head: Tensor, rows: int, seed: int) -> Tensor:
    """[rows, H]: the real rows, then garbage that no softmax survives."""
    random = torch.Generator().manual_seed(seed)
    garbage = GARBAGE * torch.randn(rows - head.shape[0], head.shape[1], generator=random)
    return torch.cat([head, garbage.to(head.dtype)])


@cache
def workspace_for(
    tokens: int,
    rows: int,
    of: torch.dtype,
    dtype: torch.dtype,
    buffers: int,
    beside: float = 0.0,
    widened: bool = True,
) -> float:
    """The workspace in MB that gives chunks of so many tokens; heads of dtype `of`, computed in dtype."""
    heads = torch.empty(rows, STUDENT_SIZE, dtype=of), torch.empty(rows, TEACHER_SIZE, dtype=of)
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        found = Workspace.of(middle, *heads, dtype, buffers, beside=beside, widened=widened).tokens
        enough = found >= tokens
        low, high = (low, middle) if enough else (middle, high)
    found = Workspace.of(high, *heads, dtype, buffers, beside=beside, widened=widened).tokens
    assert found == tokens, f"wanted chunks of {tokens} tokens, got {found}"
    return high


@dataclass(frozen=True)
class Outcome:
    """What one rank got."""

    result: DivergenceResult
    hidden_grad: Any
    """Tensor or None, as the next two"""
    head_grad: Any
    main_grad: Any


def run_one(spec: Spec, rank: int, world_size: int, group: ProcessGroup | None) -> Outcome:
    case = case_of(spec)
    rows = spec.rows or ROWS[world_size]
    total = rows * world_size
    mine = slice(rank * rows, (rank + 1) * rows)
    hidden, taught = case.student_hidden, case.teacher_hidden
    if spec.sequence_parallel:
        hidden, taught = (x.chunk(world_size)[rank] for x in (hidden, taught))
    hidden = hidden.clone().requires_grad_()
    head = padded(case.student_head, total, 1)[mine].clone().requires_grad_()
    # The teacher's shard has a few rows more than the student's: its own layout's padding, or the next rank's
    # ids.
    teacher_head = padded(case.teacher_head, total + 9, 2)[mine.start : mine.stop + 3]
    computing = torch.float64 if spec.dtype == "float64" else torch.float32
    main_grad = torch.full_like(head, MAIN_GRAD, dtype=computing).detach() if spec.main_grad else None
    indices = None if spec.indices is None else torch.tensor(spec.indices, dtype=torch.int64)
    chosen = slice(None) if indices is None else indices
    path = choose("torch", spec.divergence, [head.dtype], Machine("cpu"), world_size)
    path = replace(path, tensor_cores=spec.tensor_cores, pipelined=spec.pipelined)
    with mock.patch.object(prepare, "choose", return_value=path):
        result = weighted_divergence(
            hidden,
            head,
            taught,
            teacher_head,
            (0.0 if spec.zero_weights else 1.0) * case.weights[chosen],
            divergence=spec.divergence,
            parameter=spec.parameter,
            temperature=spec.temperature,
            temperature_squared=spec.temperature_squared,
            vocab_size=VOCAB,
            labels=case.labels[chosen],
            token_indices=indices,
            group=group,
            sequence_parallel=spec.sequence_parallel,
            compute_grad=True,
            main_grad=main_grad,
            workspace_mb=workspace_for(
                spec.chunk, rows, head.dtype, computing, path.buffers, path.beside, not path.tensor_cores
            ),
        )
    (spec.upstream * result.loss).backward()
    plain = DivergenceResult(**{**vars(result), "loss": result.loss.detach()})
    return Outcome(plain, hidden.grad, head.grad, main_grad)


def run_all(rank: int, world_size: int, batches: list[tuple[tuple[int, ...], list[Spec]]]) -> list[Outcome]:
    """The outcomes of the specs of the batch that this rank is a member of; a batch is (ranks of a group,
    specs)."""
    groups = [dist.new_group(list(members)) for members, _ in batches]
    for group, (members, specs) in zip(groups, batches, strict=True):
        if rank in members:
            return [run_one(spec, dist.get_rank(group), len(members), group) for spec in specs]
    return []


def call(**changes: Any) -> DivergenceResult:
    """A sound call on TOKENS tokens, with changes."""
    case = case_of(Spec())
    arguments: dict[str, Any] = {
        "student_hidden": case.student_hidden.clone().requires_grad_(),
        "student_head": case.student_head.clone().requires_grad_(),
        "teacher_hidden": case.teacher_hidden,
        "teacher_head": case.teacher_head,
        "weights": case.weights,
        "vocab_size": VOCAB,
        "compute_grad": True,
    }
    return weighted_divergence(**{**arguments, **changes})
