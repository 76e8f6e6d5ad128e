"""Real trainers on a GPU that isn't there, as one rank of a job whose other ranks aren't there either."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from fake_gpu.device import CUDA, fake_gpu
from fake_gpu.record import FakeGpu
from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.examples import Example
from paced_megatron.training.loop import _timed_step
from paced_megatron.training.source import Batch
from paced_megatron.training.trainer import Trainer


@dataclass(frozen=True)
class Case:
    """A layout, an objective, and how a batch is cut.

    Attributes:
        teacher: keyword arguments of `place_teacher`.
        kind: `teacher` of the stage.
        training: keys of TrainingConfig that aren't as in `trainer_on`.
    """

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    teacher: dict[str, int] = field(default_factory=dict)
    kind: str = "model"
    offload: bool = False
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        return self.parallel.world_size


@contextlib.contextmanager
def rank_on_gpu(rank: int, world_size: int) -> Iterator[FakeGpu]:
    """This process as that rank of an NCCL job, whose other ranks aren't there: what is sent goes nowhere,
    and what is received has no content. A collective of a tensor on the host raises, as NCCL would."""

    # torch carries objects in tensors that it puts on NCCL's device by itself; the arguments have its names.
    def to_all(object_list: list[Any], obj: Any, group: Any = None) -> None:
        object_list[:] = [obj] * len(object_list)

    def to_first(obj: Any, object_gather_list: list[Any] | None = None, **unused: Any) -> None:
        if object_gather_list is not None:
            object_gather_list[:] = [obj] * len(object_gather_list)

    def from_first(
        scatter_object_output_list: list[Any], scatter_object_input_list: list[Any] | None, **unused: Any
    ) -> None:
        scatter_object_output_list[0] = (scatter_object_input_list or [None])[0]

    answers = {
        "all_gather_object": to_all,
        "gather_object": to_first,
        "scatter_object_list": from_first,
        "broadcast_object_list": lambda *args, **kwargs: None,
    }
    with mock.patch.multiple(dist, **answers), fake_gpu() as gpu:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        try:
            yield gpu
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()


def trainer_on(rank: int, student_folder: Path, teacher_folder: Path, case: Case) -> Trainer:
    """The trainer that a run with this layout has on this rank."""
    parallel = case.parallel
    groups = parallel_groups(
        parallel.tensor_model_parallel_size,
        1,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
    )
    lead = Lead(0, 1, None)  # for whom a step asks whether to stop: nobody else is there
    world = World(rank, parallel.world_size, CUDA, groups, lead, place_teacher(groups, **case.teacher))
    keys = {"micro_batch_size": 2, "global_batch_size": 8, "params_dtype": "bfloat16"} | case.training
    if "loss_kernels" in {key.name for key in fields(TrainingConfig)}:
        keys.setdefault("loss_kernels", "torch")  # Triton's are started on a real device alone
    return Trainer.from_folders(
        world,
        StageConfig(train_iters=3, teacher=case.kind),
        TrainingConfig(**keys),
        parallel,
        student_folder=student_folder,
        teacher_folder=teacher_folder,
        teacher_offload=case.offload,
    )


def examples(
    count: int = 8, *, prompt_tokens: int = 11, response_tokens: int = 7, alike: bool = False, seed: int = 3
) -> list[Example]:
    """Texts of lengths that differ, or are `alike`; the teacher's prompts are 2 longer than the student's."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 250, (length,), generator=generator).tolist())

    return [
        Example(
            f"p{number}",
            ids(prompt_tokens + more),
            ids(prompt_tokens + more + 2),
            ids(response_tokens + more % 3),
            0.5,
        )
        for number, more in ((number, 0 if alike else number) for number in range(count))
    ]


def places(gpu: FakeGpu) -> Counter[str]:
    """`kind file:function` of the waits -> how often."""
    return Counter(f"{wait.kind} {wait.place}" for wait in gpu.waits)


def take_step(trainer: Trainer, batch: Sequence[Example]) -> None:
    """A step as the loop takes it, with its timers and metrics."""
    _timed_step(trainer, Batch(batch, [example.weight for example in batch]), 1, 1)
