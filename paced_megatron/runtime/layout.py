"""Which ranks hold which part of a model. Pure arithmetic; the groups of such a layout are in
`teacher_groups.py`."""

from __future__ import annotations

from dataclasses import dataclass


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

    def is_last_stage(self, rank: int) -> bool:
        return rank in self.ranks and (rank - self.first_rank) // (self.tp * self.dp) == self.pp - 1

    def tp_rank(self, rank: int) -> int:
        """A rank's place among those that share its layers."""
        return (rank - self.first_rank) % self.tp

    def copies_share(self, copy: int, count: int) -> range:
        """Which of `count` pieces of work a copy does: neighbours, as evenly as can be."""
        return range(copy * count // self.dp, (copy + 1) * count // self.dp)
