"""The student as its own teacher, as it is now: no weights beside the student's, and no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.forward import final_hidden_states
from paced_megatron.training.head import current_head
from paced_megatron.training.sleep import Sleeper
from paced_megatron.training.student import Student


def own_hidden_states(
    student: Student, chunks: Sequence[HiddenStatesModel], batches: Sequence[Sequence[MicroBatch]]
) -> list[Tensor | None]:
    """The final hidden states [M, H] of the teacher's texts, for each micro-batch of this rank's replica, by
    a model in the student's layout: nothing has to be handed over."""
    rows = [micro_batch.teacher for micro_batch in batches[student.groups.dp.rank()]]
    return final_hidden_states(chunks, rows, student.groups, student.device)


def holds_head(student: Student) -> bool:
    """Whether this rank is on the last pipeline stage."""
    return dist.get_rank(student.groups.pp) == student.groups.pp.size() - 1


@dataclass(frozen=True)
class CurrentTeacher:
    """`teacher: current`: the student's weights of this step. Its head is the student's, which the divergence
    reads and gives no gradient of the teacher's side."""

    student: Student

    @property
    def shape(self) -> ModelShape:
        return self.student.shape

    @property
    def head(self) -> Tensor | None:
        return current_head(self.student.chunks[-1]).detach() if holds_head(self.student) else None

    def hidden_states(self, batches: Sequence[Sequence[MicroBatch]]) -> list[Tensor | None]:
        """See `teachers.Teaching`."""
        return own_hidden_states(self.student, self.student.chunks, batches)

    @property
    def sleepers(self) -> tuple[Sleeper, ...]:
        """None: its memory is the student's."""
        return ()

    @property
    def chunks(self) -> Sequence[HiddenStatesModel]:
        """None of its own."""
        return ()

    def follow(self) -> None:
        """It is there already."""
