"""A step that is not finite: where it began, by rank. Asked only when it is known that something is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.errors import UserError


class LossNotFinite(ArithmeticError):
    """Raised on every rank alike, before the optimizer has stepped.

    Attributes:
        value: the whole batch's loss.
        problem_ids: those of this rank's micro-batches whose sums are not finite.
    """

    def __init__(self, value: float, problem_ids: Sequence[str]) -> None:
        super().__init__(value)
        self.value = value
        self.problem_ids = list(problem_ids)


def problems_not_finite(sums: Sequence[Tensor], problem_ids: Sequence[Sequence[str]]) -> list[str]:
    """The problems of the micro-batches whose sums hold a NaN or an infinity."""
    return [
        problem
        for values, ids in zip(sums, problem_ids, strict=False)
        if not torch.isfinite(values).all()
        for problem in ids
    ]


def parameter_not_finite(parameters: Sequence[tuple[str, Tensor]]) -> list[str]:
    """The first of the parameters whose `main_grad` holds a NaN or an infinity, if there is one."""
    bad = (name for name, parameter in parameters if not torch.isfinite(parameter.main_grad).all())  # type: ignore[attr-defined]
    return [name for _, name in zip(range(1), bad, strict=False)]


def stopped(step: int, what: str, found: Sequence[str], batch: Sequence[str]) -> UserError:
    """The line that ends the run. A collective over all ranks of the job: each tells what it has found."""
    by_rank: list[Sequence[str]] = [()] * dist.get_world_size()
    dist.all_gather_object(by_rank, list(found))
    where = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(by_rank) if names)
    return UserError(
        f"step {step}: {what}, not finite, so training stops; the checkpoint before it is kept; it began on "
        f"{where or 'no rank by itself'}; try a lower training.lr; this step's problems: {', '.join(batch)}"
    )
