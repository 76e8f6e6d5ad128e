"""All that `paced plan` says, as one object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from paced_megatron.config import Budget
from paced_megatron.plan.matmuls import idle_share, matmul_flops
from paced_megatron.plan.memory import StageMemory, memory_by_stage
from paced_megatron.plan.remedies import Remedy, remedies
from paced_megatron.plan.search import layout_that_fits
from paced_megatron.plan.work import Layout, Work


@dataclass(frozen=True)
class Plan:
    """Attributes:
    stages: an entry for each pipeline stage of the student.
    flops: part -> operations of one step's matrix products, all ranks together.
    idle_share: of the student's passes the share in which a pipeline stage waits.
    limit: bytes that a rank may hold; None: nothing to compare with.
    fits: whether every rank stays below it; None without a limit.
    would_fit: where it does not fit, a layout that would, if there is one.
    remedies: where it does not fit, keys with which it would on the processes that it has.
    budgets: of the stages of training, in order.
    """

    work: Work
    stages: list[StageMemory]
    flops: dict[str, float]
    idle_share: float
    limit: float | None
    fits: bool | None
    would_fit: Layout | None
    budgets: Sequence[Budget] = ()
    remedies: Sequence[Remedy] = ()

    def as_json(self) -> str:
        """Bytes and operations, under the names that the table shows."""
        return json.dumps(
            {
                "layout": asdict(self.work.layout) | {"world_size": self.work.layout.world_size},
                "params_dtype": self.work.params_dtype,
                "prompt_tokens": self.work.prompt_tokens,
                "response_tokens": self.work.response_tokens,
                "stages": [
                    {
                        "stage": stage.stage,
                        "outside": dict(stage.outside),
                        "lasting": dict(stage.lasting),
                        "turns": {turn: dict(parts) for turn, parts in stage.turns.items()},
                        "largest_turn": stage.largest_turn,
                        "peak": stage.peak,
                    }
                    for stage in self.stages
                ],
                "cache_bytes_per_response": self.work.cache_bytes,
                "matmul_flops": self.flops,
                "idle_share": self.idle_share,
                "limit": self.limit,
                "fits": self.fits,
                "budgets": [{budget.name: budget.amount} for budget in self.budgets],
                "would_fit": asdict(self.would_fit) if self.would_fit else None,
                "remedies": [asdict(one) for one in self.remedies],
            },
            indent=1,
        )


def make_plan(work: Work, limit: float | None, budgets: Sequence[Budget] = ()) -> Plan:
    """Plan a step; `limit` in bytes for each rank, `budgets` those of the run's stages."""
    stages = memory_by_stage(work)
    fits = None if limit is None else max(stage.peak for stage in stages) <= limit
    return Plan(
        work=work,
        stages=stages,
        flops=matmul_flops(work),
        idle_share=idle_share(work),
        limit=limit,
        fits=fits,
        would_fit=layout_that_fits(work, limit) if limit is not None and not fits else None,
        budgets=budgets,
        remedies=remedies(work, limit) if limit is not None and not fits else (),
    )
