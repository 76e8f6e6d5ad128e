"""A teacher that is the moving average of the student's weights.

It is kept in float32, whatever the student's type: with a decay of 0.99 a step changes it by a hundredth of
what the student's step did, which bfloat16 would round away. For that its layers are the local ones, whosever
the student's are (models/layer_choice.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks, parameters_by_name
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.self_teacher import holds_head, own_hidden_states
from paced_megatron.training.sleep import Sleeper
from paced_megatron.training.student import Student

DECAY = 0.99


@dataclass(frozen=True)
class EmaTeacher:
    """`teacher: ema`: after each step, decay x itself + (1 - decay) x the student.

    Attributes:
        student: whom it follows; its layout is the teacher's too.
        chunks: this rank's parts of it, frozen, float32 or wider; a checkpoint holds them.
        decay: 0 is the student, one step late.
        sleepers: its weights, between steps.
    """

    student: Student
    chunks: list[HiddenStatesModel]
    decay: float
    sleepers: tuple[Sleeper, ...]

    @classmethod
    def of(cls, student: Student, decay: float) -> EmaTeacher:
        """A copy of the student as it is now."""
        config = student.chunks[0].config
        chunks = build_chunks(
            student.shape,
            student.groups,
            torch.promote_types(config.params_dtype, torch.float32),
            config.virtual_pipeline_model_parallel_size,
        )
        for chunk in chunks:
            chunk.requires_grad_(False).eval()
        body = Sleeper("EMA teacher", lambda: (weight for chunk in chunks for weight in chunk.parameters()))
        made = cls(student, chunks, decay, (body,))
        with torch.no_grad():
            for own, students in made._pairs():
                own.copy_(students)
        return made

    @property
    def shape(self) -> ModelShape:
        return self.student.shape

    @property
    def head(self) -> Tensor | None:
        return self.chunks[-1].head if holds_head(self.student) else None

    def hidden_states(self, batches: Sequence[Sequence[MicroBatch]]) -> list[Tensor | None]:
        """See `teachers.Teaching`."""
        for sleeper in self.sleepers:
            sleeper.check_awake()
        return own_hidden_states(self.student, self.chunks, batches)

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the student as it is after a step."""
        self.student.settle()
        for own, students in self._pairs():
            own.lerp_(students.to(own.dtype), 1 - self.decay)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        students = parameters_by_name(self.student.chunks)
        for name, own in parameters_by_name(self.chunks).items():
            yield own, students[name]
