"""The teacher's head, cut at the student's vocabulary boundaries.

The divergence wants both heads over the same ids. Where the teacher's own cut doesn't give them, this rank
reads those rows from the folder, and the teacher's own are let go where nothing else needs them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.models.mapping import filling_rules
from paced_megatron.models.weight_files import WeightFiles
from paced_megatron.runtime.layout import Layout


def _held(shape: ModelShape, layout: Layout, rank: int) -> range:
    """The vocabulary ids, padding included, of which a rank of the last stage holds the head's rows."""
    rows = shape.padded_vocab_size(layout.tp) // layout.tp
    return range(layout.tp_rank(rank) * rows, (layout.tp_rank(rank) + 1) * rows)


def needed_rows(teacher: ModelShape, student: ModelShape, students: Layout, rank: int) -> range:
    """The real ids of this rank's part of the student's vocabulary: those rows of the teacher's head it
    needs. Empty where its part is only padding.

    Args:
        rank: one that holds a part of the student's head.
    """
    held, real = _held(student, students, rank), min(teacher.vocab_size, student.vocab_size)
    return range(min(held.start, real), min(held.stop, real))


def _has_rows(teacher: ModelShape, layout: Layout, rank: int, needed: range) -> bool:
    """Whether the rank's part of the teacher begins with the rows."""
    last = any(rank in layout.last_stage(copy) for copy in range(layout.dp))
    held = _held(teacher, layout, rank)
    return last and (not needed or (held.start == needed.start and held.stop >= needed.stop))


def second_head_rows(
    teacher: ModelShape, student: ModelShape, layout: Layout, students: Layout, rank: int
) -> int:
    """How many rows of the teacher's head a rank holds beside its part of the teacher's model; 0 where that
    part will do, or the rank has no part of the student's head. For `paced plan`."""
    if not any(rank in students.last_stage(copy) for copy in range(students.dp)):
        return 0
    needed = needed_rows(teacher, student, students, rank)
    return 0 if _has_rows(teacher, layout, rank, needed) else len(needed)


def own_head_rows(
    teacher: ModelShape, student: ModelShape, layout: Layout, students: Layout, rank: int
) -> int:
    """How many rows of head or embedding a rank of the teacher's last stage keeps as part of the model: none
    where they are of no use to the divergence, and no embedding. For `paced plan`."""
    if not any(rank in layout.last_stage(copy) for copy in range(layout.dp)):
        return 0
    holds = any(rank in students.last_stage(copy) for copy in range(students.dp))
    used = holds and _has_rows(teacher, layout, rank, needed_rows(teacher, student, students, rank))
    return len(_held(teacher, layout, rank)) if used or (teacher.tied and layout.pp == 1) else 0


def read_head_rows(folder: Path, shape: ModelShape, rows: range, like: Tensor) -> Tensor:
    """Rows of a Hugging Face folder's head [len(rows), H], in the dtype and on the device of `like`; of the
    files only they are read."""
    (name,) = filling_rules(shape)[-1].hugging_face  # the head's; the embedding's where they are tied
    part = WeightFiles(folder).part_of(name)[rows.start : rows.stop]
    # A tensor of its own: it may be put to sleep, which a mapped file can't.
    return torch.empty(part.shape, dtype=like.dtype, device=like.device).copy_(part)


def teacher_head(
    folder: Path,
    teacher: ModelShape,
    student: ModelShape,
    model: HiddenStatesModel | None,
    layout: Layout,
    students: Layout,
    rank: int,
    like: Tensor,
) -> Tensor | None:
    """The head's rows that this rank needs [rows, H_t]; None where it holds no part of the student's head.

    The model's own output layer is dropped where it isn't what is needed: no logits are ever made of it.
    """
    head: Tensor | None = None
    if any(rank in students.last_stage(copy) for copy in range(students.dp)):
        needed = needed_rows(teacher, student, students, rank)
        if model is not None and _has_rows(teacher, layout, rank, needed):
            return model.head[: len(needed)]
        head = read_head_rows(folder, teacher, needed, like)
    if model is not None and model.post_process and not (teacher.tied and model.pre_process):
        model.output_layer = None
    return head
