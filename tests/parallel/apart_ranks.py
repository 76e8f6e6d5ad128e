"""What the ranks of a job do in which the teacher has processes of its own, behind those of the student."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from paced_megatron import device_check
from paced_megatron.config import ParallelConfig, TeacherConfig
from paced_megatron.runtime.gpus import Gpu
from paced_megatron.runtime.world import is_teachers, joined_teacher, joined_world
from paced_megatron.training import teacher_service
from paced_megatron.training.examples import Example
from paced_megatron.training.teacher_service import serve
from parallel.step_ranks import Case, Found, found_on

A_GPU = torch.device("cuda", 0)  # made here: in a job on the CPU every device that is asked for is that one
Work = tuple[Path, Path, Sequence[Example], Case]


def gradients_apart(
    rank: int, world_size: int, port: int, teacher: TeacherConfig, works: Sequence[Work]
) -> list[Found] | None:
    """As `step_gradients`, for works of one layout; None on the teacher's ranks."""
    dist.destroy_process_group()  # the pool's, which spans both sides
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel = works[0][-1].parallel
    if is_teachers(parallel):
        torch.set_default_dtype(works[0][-1].dtype)
        with joined_teacher(parallel, teacher, 1) as place:
            serve(place)
        return None
    with joined_world(parallel, teacher, 1) as world:
        assert world.teacher is not None
        return [found_on(rank, world.groups, world.teacher, *work) for work in works]


def gpus_apart(
    rank: int, world_size: int, port: int, parallel: ParallelConfig, teacher: TeacherConfig
) -> list[Gpu] | None:
    """What the student's ranks find of the job's GPUs, each of which is made up where it is asked; None on
    the teacher's ranks."""
    dist.destroy_process_group()  # the pool's, which spans both sides
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = Gpu(f"card {rank}", total=float(rank), free=0.0)
    with (
        mock.patch.object(device_check, "gpu_at", lambda device: own),
        mock.patch.object(teacher_service, "gpu_at", lambda device: own),
    ):
        if is_teachers(parallel):
            with joined_teacher(parallel, teacher, 1) as place:
                serve(place)
            return None
        with joined_world(parallel, teacher, 1) as world:
            on_gpus = replace(world, device=A_GPU)
            return [gpu for _ in range(2) for gpu in device_check.gpus_of_job(on_gpus)]
