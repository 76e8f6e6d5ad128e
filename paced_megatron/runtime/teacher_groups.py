"""The process groups of a model that is not Megatron's global one: a teacher's.

Megatron keeps one set of groups for a whole process (`parallel_state`): the student's. A teacher that is laid
out otherwise brings its own, made by Megatron's `HyperCommGrid` and passed to whatever communicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import ProcessGroupCollection

from paced_megatron.runtime.bridge import Bridge
from paced_megatron.runtime.layout import Layout


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


@dataclass(frozen=True)
class TeacherPlace:
    """Where the teacher runs.

    Attributes:
        layout: the teacher's; `students` is the student's.
        groups: this rank's groups in the teacher's layout; None where it has no part of the teacher.
        rank: of this process in the job.
        bridge: to the other side, where the teacher has ranks of its own; None: both are on the same.
    """

    layout: Layout
    students: Layout
    groups: ProcessGroupCollection | None
    rank: int
    bridge: Bridge | None = None


def place_teacher(
    student_groups: ProcessGroupCollection,
    tensor_model_parallel_size: int | None = None,
    pipeline_model_parallel_size: int | None = None,
) -> TeacherPlace:
    """The teacher on the student's ranks, in a layout of its own; None takes the student's size.

    A collective over all ranks of the job. As many copies of the teacher as fit share the work.

    Raises:
        ValueError: the ranks can't be divided so (config/rules.py says it to the user first).
    """
    students = Layout(student_groups.tp.size(), student_groups.pp.size(), student_groups.dp.size())
    tp = tensor_model_parallel_size or students.tp
    pp = pipeline_model_parallel_size or students.pp
    copies, rest = divmod(len(students.ranks), tp * pp)
    if rest:
        raise ValueError(f"{len(students.ranks)} ranks are no multiple of the teacher's {tp} x {pp}")
    layout = Layout(tp, pp, copies)
    groups = student_groups if layout == students else layout_groups(layout)
    return TeacherPlace(layout, students, groups, dist.get_rank())


def teacher_place_apart(
    bridge: Bridge, students: Layout, teacher: Layout, groups: ProcessGroupCollection | None
) -> TeacherPlace:
    """The teacher on ranks of its own, behind those of the students.

    Args:
        students, teacher: their layouts; `first_rank` of the teacher's is filled in here.
        groups: the teacher's; None on the students' side.
    """
    layout = replace(teacher, first_rank=students.ranks.stop)
    return TeacherPlace(layout, students, groups, bridge.rank, bridge)
