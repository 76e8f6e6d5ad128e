"""Which ranks hold which part of a model, and the process groups of a model that is not Megatron's global one.

Megatron keeps one set of groups for a whole process (`parallel_state`): the student's. A teacher that is laid
out otherwise brings its own, made by Megatron's `HyperCommGrid` and passed to whatever communicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import ProcessGroupCollection


@dataclass(frozen=True)
class Layout:
    """One model's copies over a range of ranks, in Megatron's order: TP neighbours first, then the copies
    (DP), then the stages (PP).

    Attributes:
        tp, pp: how many ranks share a layer, and how many stages the layers are spread over.
        dp: copies of the model.
        first_rank: where the range begins.
    """

    tp: int
    pp: int
    dp: int
    first_rank: int = 0

    @property
    def ranks(self) -> range:
        return range(self.first_rank, self.first_rank + self.tp * self.pp * self.dp)

    def last_stage(self, copy: int) -> list[int]:
        """The ranks of the last stage of a copy, in the order of their vocabulary shards."""
        start = self.first_rank + self.tp * (copy + self.dp * (self.pp - 1))
        return list(range(start, start + self.tp))

    def copy_of(self, rank: int) -> int | None:
        """The copy that a rank belongs to; None outside of the range."""
        return (rank - self.first_rank) // self.tp % self.dp if rank in self.ranks else None


def layout_groups(layout: Layout) -> ProcessGroupCollection | None:
    """The process groups of a model in this layout, for forward passes; None on a rank outside of it.

    A collective over all ranks of the job. What only training needs is left out: tied embeddings are filled
    on both ends of the pipeline from the folder, so there is no group to reduce their gradient over.
    """
    grid = HyperCommGrid(
        [layout.tp, 1, layout.dp, layout.pp], ["tp", "cp", "dp", "pp"], rank_offset=layout.first_rank
    )
    tp, cp, dp, pp = (grid.create_pg(name) for name in ("tp", "cp", "dp", "pp"))
    if dist.get_rank() not in layout.ranks:
        return None
    return ProcessGroupCollection(tp=tp, cp=cp, dp=dp, dp_cp=dp, pp=pp, embd=None, pos_embd=None)
