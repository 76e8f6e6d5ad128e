"""Which vocabulary ids a rank holds, and the collectives of the room. None runs under autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def _collective(newer: str, older: str):  # type: ignore[no-untyped-def]
    """torch 2.13 warns at the older names of the one-tensor collectives; the GPU containers know only
    those."""
    return getattr(dist, newer, None) or getattr(dist, older)


@dataclass(frozen=True)
class Gathering:
    """An all-gather on its way."""

    work: dist.Work | None
    gathered: Tensor
    local: Tensor
    """what it reads, kept alive until it is done"""

    def wait(self) -> Tensor:
        """[world_size, ...]. On a GPU the stream waits, not the process."""
        if self.work is not None:
            self.work.wait()
        return self.gathered


@dataclass(frozen=True)
class VocabularyShard:
    """This rank's part of the vocabulary: the ids [start, start + real), the first `real` rows of its head
    shards.

    Every rank of the group holds `rows` head rows, rank * rows being the first id. Rows from vocab_size on
    are padding and are sliced off; `real` is 0 where a shard is padding only.
    """

    group: ProcessGroup | None
    rank: int
    world_size: int
    start: int
    real: int
    vocab_size: int

    @staticmethod
    def of(group: ProcessGroup | None, rows: int, vocab_size: int) -> VocabularyShard:
        """The shard of this rank; group None is one process that holds the whole head.

        Raises ValueError where this rank is not in the group, or the shards together have fewer than
        vocab_size rows.
        """
        rank, world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        if rank < 0:
            raise ValueError("group: this rank is not a member of the tensor-parallel group it passed in")
        if not 0 < vocab_size <= rows * world_size:
            raise ValueError(
                f"vocab_size: {vocab_size} is not between 1 and the {rows * world_size} head rows that "
                f"{world_size} rank(s) with {rows} rows hold"
            )
        start = rank * rows
        return VocabularyShard(
            group, rank, world_size, start, min(max(vocab_size - start, 0), rows), vocab_size
        )

    def gather(self, local: Tensor) -> Tensor:
        """[...] of every rank -> [world_size, ...]."""
        if self.world_size == 1:
            return local.unsqueeze(0)
        gathered = local.new_empty(self.world_size * local.shape[0], *local.shape[1:])
        _collective("all_gather_single", "all_gather_into_tensor")(
            gathered, local.contiguous(), group=self.group
        )
        return gathered.view(self.world_size, *local.shape)

    def start_gather(self, local: Tensor) -> Gathering:
        """`gather` that doesn't wait: on a GPU what is issued before `wait` runs beside the collective."""
        if self.world_size == 1:
            return Gathering(None, local.unsqueeze(0), local)
        local = local.contiguous()
        gathered = local.new_empty(self.world_size * local.shape[0], *local.shape[1:])
        work = _collective("all_gather_single", "all_gather_into_tensor")(
            gathered, local, group=self.group, async_op=True
        )
        return Gathering(work, gathered.view(self.world_size, *local.shape), local)

    def sum(self, local: Tensor) -> Tensor:
        """[...] of every rank -> their sum; each rank adds them up in the same order, and so gets the same
        digits."""
        return self.gather(local).sum(0)

    def gather_tokens(self, part: Tensor) -> Tensor:
        """Sequence parallelism: the ranks' [N / world_size, H] slices -> all tokens [N, H], in rank order."""
        return self.gather(part).flatten(0, 1)

    def reduce_tokens(self, gradient: Tensor, *, scatter: bool) -> Tensor:
        """The sum over the ranks of [N, H]: all of it, or with scatter this rank's [N / world_size, H]."""
        if self.world_size == 1 or gradient.numel() == 0:
            return gradient
        if not scatter:
            dist.all_reduce(gradient, group=self.group)
            return gradient
        part = gradient.new_empty(gradient.shape[0] // self.world_size, gradient.shape[1])
        _collective("reduce_scatter_single", "reduce_scatter_tensor")(part, gradient, group=self.group)
        return part
