"""The kinds of teacher, side by side: what a step asks of one, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.runtime.teacher_groups import TeacherPlace
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.ema import DECAY, EmaTeacher
from paced_megatron.training.self_teacher import CurrentTeacher
from paced_megatron.training.sleep import Sleeper
from paced_megatron.training.student import Student
from paced_megatron.training.teacher import Teacher
from paced_megatron.training.teacher_cache import TeacherCache


class Teaching(Protocol):
    """What a step needs of a teacher, whoever it is."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def head(self) -> Tensor | None:
        """Its head's rows of this rank's part of the vocabulary, cut at the student's boundaries, [V_r, H_t];
        None where the student's head is not."""
        ...

    def hidden_states(self, batches: Sequence[Sequence[MicroBatch]]) -> list[Tensor | None]:
        """The final hidden states [M, H_t] at the response's positions, for each micro-batch of this rank's
        own replica of the student, on the ranks that hold the student's head; None elsewhere. A collective.

        Args:
            batches: every student replica's micro-batches, the same on all ranks.
        """
        ...

    def follow(self) -> None:
        """Called after each optimizer step: a teacher that changes with the student does so here."""
        ...

    @property
    def sleepers(self) -> Sequence[Sleeper]:
        """All that sleeps while the job does something else than training."""
        ...

    @property
    def chunks(self) -> Sequence[HiddenStatesModel]:
        """This rank's parts of what training changes, and a checkpoint holds; none where it is fixed."""
        ...


@dataclass(frozen=True)
class TeacherSetting:
    """What a teacher is made from.

    Attributes:
        student: with the weights that the stage begins with.
        folder: of a frozen teacher's weights.
        place: a frozen teacher's layout; the others have the student's.
        dtype: a frozen teacher's.
        ema_decay: None: `DECAY`.
    """

    student: Student
    folder: Path
    place: TeacherPlace
    dtype: torch.dtype
    offload: bool = False
    cache: TeacherCache | None = None
    ema_decay: float | None = None


def _frozen(setting: TeacherSetting) -> Teacher:
    return Teacher.from_folder(
        setting.folder,
        setting.place,
        setting.dtype,
        student=setting.student.shape,
        offload=setting.offload,
        cache=setting.cache,
        transformer_impl=setting.student.chunks[0].config.transformer_impl,
    )


def _ema(setting: TeacherSetting) -> EmaTeacher:
    return EmaTeacher.of(setting.student, DECAY if setting.ema_decay is None else setting.ema_decay)


# `teacher` of a stage -> that teacher. A collective over all ranks of the job.
TEACHERS: dict[str, Callable[[TeacherSetting], Teaching]] = {
    "model": _frozen,
    "initial": _frozen,  # the folder is the student's, as it was when the run began
    "ema": _ema,
    "current": lambda setting: CurrentTeacher(setting.student),
}
