"""What a rank holds of the teacher, whose layout may differ from the student's."""

from __future__ import annotations

from dataclasses import dataclass

from paced_megatron.plan.parameters import parameters_on_rank
from paced_megatron.plan.work import Work
from paced_megatron.runtime import layout as runtime
from paced_megatron.training.teacher_head import HeadCut


@dataclass(frozen=True)
class TeacherOnRank:
    """Bytes.

    Attributes:
        weights: of the rank's part of the model.
        head_again: of the head's rows, cut at the student's boundaries, where the model's own don't serve.
        made: of the hidden states that this rank's forward passes end with, where they are handed on.
        handed_over: of those that it needs beside the student's head, for all the step's micro-batches.
    """

    weights: float
    head_again: float
    made: float
    handed_over: float

    @property
    def total(self) -> float:
        return self.weights + self.head_again + self.made + self.handed_over


def teacher_at_stage(work: Work, stage: int) -> TeacherOnRank:
    """Of the ranks of a pipeline stage of the student the one that holds most of the teacher."""
    layout = work.layout
    of_stage = layout.world_size // layout.pipeline_model_parallel_size
    ranks = range(stage * of_stage, (stage + 1) * of_stage)
    on_rank = _KINDS[work.teacher_kind]
    return max((on_rank(work, rank) for rank in ranks), key=lambda found: found.total)


def teacher_apart(work: Work) -> TeacherOnRank:
    """Of the ranks that only the teacher has the one that holds most of it."""
    _, teachers = _layouts(work)
    return max((_frozen(work, rank) for rank in teachers.ranks), key=lambda found: found.total)


def _frozen(work: Work, rank: int) -> TeacherOnRank:
    students, teachers = _layouts(work)
    cut = HeadCut(work.teacher, work.student, teachers, students, rank)
    kept = 0
    if rank in teachers.ranks:
        stage = (rank - teachers.first_rank) // (teachers.tp * teachers.dp)
        parameters = parameters_on_rank(work.teacher, teachers.tp, teachers.pp, stage)
        kept = parameters.total - (parameters.head if cut.drops_own else 0)
    micro_batch = work.loss_tokens * work.teacher.hidden_size * work.element
    share = -(-work.micro_batches * students.dp // teachers.dp)
    hands_on = teachers.is_last_stage(rank) and teachers != students
    return TeacherOnRank(
        weights=float(kept * work.element),
        head_again=float(cut.second_rows * work.teacher.hidden_size * work.element),
        made=float(share * micro_batch if hands_on else 0),
        handed_over=float(work.micro_batches * micro_batch if students.is_last_stage(rank) else 0),
    )


def _ema(work: Work, rank: int) -> TeacherOnRank:
    """One copy of the student's part, float32 or wider, and so its hidden states."""
    own = parameters_on_rank(work.student, *_cut(work, rank))
    return TeacherOnRank(float(own.total * work.accurate), 0.0, 0.0, _kept(work, rank, work.accurate))


def _current(work: Work, rank: int) -> TeacherOnRank:
    """The student's own weights."""
    return TeacherOnRank(0.0, 0.0, 0.0, _kept(work, rank, work.element))


# `teacher` of a stage -> what a rank holds of it.
_KINDS = {"model": _frozen, "initial": _frozen, "ema": _ema, "current": _current}


def _cut(work: Work, rank: int) -> tuple[int, int, int]:
    """The student's tensor and pipeline sizes, and the rank's pipeline stage."""
    students, _ = _layouts(work)
    return students.tp, students.pp, rank // (students.tp * students.dp)


def _kept(work: Work, rank: int, element: int) -> float:
    """The hidden states of a teacher in the student's layout, for all the step's micro-batches."""
    students, _ = _layouts(work)
    if not students.is_last_stage(rank):
        return 0.0
    return float(work.micro_batches * work.loss_tokens * work.student.hidden_size * element)


def _layouts(work: Work) -> tuple[runtime.Layout, runtime.Layout]:
    """The student's and the teacher's, as runtime/ numbers their ranks."""
    layout = work.layout
    tp, pp = layout.teacher_tensor_model_parallel_size, layout.teacher_pipeline_model_parallel_size
    students = runtime.Layout(
        layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size, layout.data_parallel_size
    )
    if layout.teacher_own_copies:
        return students, runtime.Layout(tp, pp, layout.teacher_own_copies, first_rank=students.ranks.stop)
    return students, runtime.Layout(tp, pp, layout.world_size // (tp * pp))
