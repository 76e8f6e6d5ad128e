"""The teacher's head, cut at the student's vocabulary boundaries. No Megatron: `paced plan` counts by it.

The divergence wants both heads over the same ids. Where the teacher's own cut doesn't give them, a rank reads
those rows from the folder, and the teacher's own are let go where nothing else needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.mapping import filling_rules
from paced_megatron.models.weight_files import WeightFiles
from paced_megatron.runtime.layout import Layout


def _held(shape: ModelShape, layout: Layout, rank: int) -> range:
    """The vocabulary ids, padding included, whose head rows a rank of the last stage holds."""
    rows = shape.padded_vocab_size(layout.tp) // layout.tp
    return range(layout.tp_rank(rank) * rows, (layout.tp_rank(rank) + 1) * rows)


@dataclass(frozen=True)
class HeadCut:
    """Which rows of the teacher's head one rank needs, and where it has them from.

    Attributes:
        teacher, student: the models' shapes.
        layout, students: their layouts.
        rank: in the job.
    """

    teacher: ModelShape
    student: ModelShape
    layout: Layout
    students: Layout
    rank: int

    @property
    def needed(self) -> range | None:
        """The real ids of this rank's part of the student's vocabulary, empty where that is only padding;
        None on a rank that holds no part of the student's head."""
        if not self.students.is_last_stage(self.rank):
            return None
        held = _held(self.student, self.students, self.rank)
        real = min(self.teacher.vocab_size, self.student.vocab_size)
        return range(min(held.start, real), min(held.stop, real))

    @property
    def model_has_it(self) -> bool:
        """Whether this rank's part of the teacher begins with the rows that are needed."""
        if self.needed is None or not self.layout.is_last_stage(self.rank):
            return False
        held = _held(self.teacher, self.layout, self.rank)
        return not self.needed or (held.start == self.needed.start and held.stop >= self.needed.stop)

    @property
    def second_rows(self) -> int:
        """How many rows the rank holds beside its part of the teacher's model."""
        return 0 if self.needed is None or self.model_has_it else len(self.needed)

    @property
    def drops_own(self) -> bool:
        """Whether the model's own output layer is let go: no logits are ever made of it. A tied one is the
        embedding, where one stage has both."""
        embedding_too = self.teacher.tied and self.layout.pp == 1
        return self.layout.is_last_stage(self.rank) and not self.model_has_it and not embedding_too

    def read(self, folder: Path, like: Tensor) -> Tensor:
        """The needed rows [rows, H_t] from the teacher's Hugging Face folder, in the dtype and on the device
        of `like`; of the files only they are read."""
        assert self.needed is not None
        (name,) = filling_rules(self.teacher)[-1].hugging_face  # the embedding's where they are tied
        part = WeightFiles(folder).part_of(name)[self.needed.start : self.needed.stop]
        # A tensor of its own: it may be put to sleep, which a mapped file can't.
        return torch.empty(part.shape, dtype=like.dtype, device=like.device).copy_(part)
