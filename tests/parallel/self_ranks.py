"""What the ranks do in tests of a teacher that follows the student: steps of the package's own trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from paced_megatron.config import StageConfig
from paced_megatron.models.folder import hugging_face_tensors
from paced_megatron.models.gpt import HiddenStatesModel, parameters_by_name
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.checkpoints import load_checkpoint, save_checkpoint
from paced_megatron.training.examples import Example
from paced_megatron.training.student import Student
from paced_megatron.training.trainer import Trainer
from parallel.step_ranks import Case

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Followed:
    """One rank's view; weights by Hugging Face name, on the first rank only.

    Attributes:
        losses: of each step.
        student: its weights before the first step and after each.
        teacher: the teacher's after each, where it has its own.
        models: what a checkpoint holds, by name: the dtypes.
    """

    losses: list[float]
    student: list[Weights | None]
    teacher: list[Weights | None]
    models: dict[str, set[str]]


def follow(
    rank: int,
    world_size: int,
    folder: Path,
    steps: Sequence[Sequence[Example]],
    stage: StageConfig,
    case: Case,
    checkpoints: Path | None = None,
) -> Followed:
    """A step on each of the batches; with `checkpoints` the last by a trainer that goes on from there."""
    with megatron_on_cpu():
        parallel = case.parallel
        groups = parallel_groups(
            parallel.tensor_model_parallel_size,
            1,
            parallel.pipeline_model_parallel_size,
            parallel.virtual_pipeline_model_parallel_size,
        )
        world = World(rank, world_size, CPU, groups, None, place_teacher(groups))

        def made() -> Trainer:
            return Trainer.from_folders(
                world, stage, case.training, parallel, student_folder=folder, teacher_folder=folder
            )

        trainer = made()
        found = Followed([], [_whole(trainer.student, trainer.student.chunks, rank)], [], {})
        for number, batch in enumerate(steps, start=1):
            if checkpoints is not None and number == len(steps):
                save_checkpoint(checkpoints, number - 1, trainer)
                trainer = made()
                load_checkpoint(checkpoints, number - 1, trainer)
            student, own = trainer.student, trainer.teacher.chunks
            sums, _, _ = trainer.step(batch)
            student.settle()
            found.losses.append(sums.loss)
            found.student.append(_whole(student, student.chunks, rank))
            found.teacher.append(_whole(student, own, rank) if own else None)
        for name, chunks in trainer.models.items():
            found.models[name] = {str(weight.dtype) for weight in parameters_by_name(chunks).values()}
        return found


def _whole(student: Student, chunks: Sequence[HiddenStatesModel], rank: int) -> Weights | None:
    if student.groups.dp.rank():
        return None
    weights = {name: weight.detach().clone() for name, weight in parameters_by_name(chunks).items()}
    whole = {
        name: tensor.clone() for name, tensor in hugging_face_tensors(weights, student.shape, student.groups)
    }
    return whole if rank == 0 else None
