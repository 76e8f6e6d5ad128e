"""Counts what `counted.py` counts, in a job in which the teacher has processes of its own."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from torch.multiprocessing.reductions import StorageWeakRef

from paced_megatron.config import TeacherConfig
from paced_megatron.runtime.teacher_groups import TeacherPlace
from paced_megatron.runtime.world import is_teachers, joined_teacher, joined_world
from paced_megatron.training.teacher import Teacher, Work
from paced_megatron.training.teacher_service import serve
from plan.counted import Case, TurnsWatched, count_parts, examples, live_storages, storages, trainer_in


def count_apart(
    rank: int, world_size: int, port: int, student_folder: Path, teacher_folder: Path, case: Case
) -> tuple[int | None, dict[str, float]]:
    """As `count_step`; a rank of the teacher's has no stage of the student."""
    before = live_storages()
    dist.destroy_process_group()  # the pool's, which spans both sides
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    layout = case.layout
    teacher = TeacherConfig(
        tensor_model_parallel_size=layout.teacher_tensor_model_parallel_size,
        pipeline_model_parallel_size=layout.teacher_pipeline_model_parallel_size,
        data_parallel_size=layout.teacher_own_copies,
        own_ranks=True,
    )
    if is_teachers(case.parallel):
        with joined_teacher(case.parallel, teacher, 1) as place:
            return None, _count_served(place, before)
    with joined_world(case.parallel, teacher, 1) as world:
        trainer = trainer_in(world, student_folder, teacher_folder, case)
        return trainer.student.groups.pp.rank(), count_parts(trainer, examples(case), before)


def _count_served(place: TeacherPlace, before: Collection[StorageWeakRef]) -> dict[str, float]:
    """Of the second step that the teacher works for."""
    parts: dict[str, float] = {}
    made, steps = Teacher.made, iter((1, 2))

    def counted(teacher: Teacher, work: Work) -> object:
        if next(steps) == 1:
            return made(teacher, work)
        live = live_storages()
        assert teacher.model is not None
        parts["teacher's weights"] = sum(storages(teacher.model.parameters()).values())
        parts["all that lasts"] = sum(size for key, size in live.items() if key not in before)
        watch = TurnsWatched(live)
        with watch, watch.during("teacher"):
            result = made(teacher, work)
        parts.update(watch.peaks)
        return result

    with mock.patch.object(Teacher, "made", counted):
        serve(place)
    return parts
