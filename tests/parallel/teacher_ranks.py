"""What the ranks do in tests of the teacher's cache and sleep: one step's gradient, taken in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.runtime.world import parallel_groups
from paced_megatron.training.batches import Batching, micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.sleep import asleep
from paced_megatron.training.step import Objective, accumulate_gradient
from paced_megatron.training.student import Student
from paced_megatron.training.teacher import Teacher
from paced_megatron.training.teacher_cache import TeacherCache
from parallel.step_ranks import Case


class Step:
    """A student and what a step on it wants; the teacher is chosen each time."""

    def __init__(self, student_folder: Path, examples: Sequence[Example], case: Case) -> None:
        torch.set_default_dtype(case.dtype)
        parallel = case.parallel
        self.groups = parallel_groups(
            parallel.tensor_model_parallel_size, 1, parallel.pipeline_model_parallel_size
        )
        self.student = Student.from_folder(student_folder, self.groups, case.dtype, case.training, parallel)
        self.batches = micro_batches(examples, Batching.of(case.training, parallel))
        self.place = place_teacher(self.groups, **case.teacher)

    def teacher(self, folder: Path, case: Case, **ways) -> Teacher:
        return Teacher.from_folder(folder, self.place, case.dtype, student=self.student.shape, **ways)

    def gradient(self, teacher: Teacher) -> dict[str, Tensor]:
        """Of this rank's parameters."""
        self.student.zero_grad()
        vocab_size = min(self.student.shape.vocab_size, teacher.shape.vocab_size)
        objective = Objective(divergence="forward_kl", vocab_size=vocab_size, workspace_mb=0.02)
        accumulate_gradient(self.student, teacher, self.batches, objective)
        named = (pair for chunk in self.student.chunks for pair in chunk.named_parameters())
        return {name: parameter.main_grad.clone() for name, parameter in named}


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def cached(
    rank: int, world_size: int, folders: tuple[Path, Path], examples: list[Example], case: Case, where: Path
) -> dict[str, bool]:
    """Whether the gradient is that without a cache, bit for bit: when the cache is written, when it is read
    by a teacher that has no model to compute with, and when a file of it was damaged in between."""
    with megatron_on_cpu():
        step = Step(folders[0], examples, case)
        plain = step.teacher(folders[1], case)
        wanted = step.gradient(plain)
        cache = TeacherCache(where, "this teacher", plain.shape.hidden_size, case.dtype, CPU)
        if rank == 0:
            cache.prepare(examples)
        torch.distributed.barrier()
        teacher = dataclasses.replace(plain, cache=cache)
        written = _same(step.gradient(teacher), wanted)
        read = _same(step.gradient(dataclasses.replace(teacher, model=None)), wanted)
        torch.distributed.barrier()
        if rank == 0:
            path = cache.path(examples[1])
            path.write_bytes(path.read_bytes()[:-5])
        torch.distributed.barrier()
        mended = _same(step.gradient(teacher), wanted)
        again = _same(step.gradient(dataclasses.replace(teacher, model=None)), wanted)
    return {"written": written, "read": read, "mended": mended, "read again": again}


def slept(
    rank: int, world_size: int, folders: tuple[Path, Path], examples: list[Example], case: Case
) -> dict[str, object]:
    """Whether a teacher that sleeps whenever it can gives the same gradient, twice, and after a nap of all;
    how many bytes of it stay awake; and what a step says to one that sleeps."""
    with megatron_on_cpu():
        step = Step(folders[0], examples, case)
        wanted = step.gradient(step.teacher(folders[1], case))
        teacher = step.teacher(folders[1], case, offload=True)
        found = [_same(step.gradient(teacher), wanted) for _ in range(2)]
        model = teacher.model
        assert model is not None
        shared = None if teacher.head is None else teacher.head.untyped_storage().data_ptr()
        awake = sum(
            parameter.untyped_storage().nbytes()
            for parameter in model.parameters()
            if parameter.untyped_storage().data_ptr() != shared
        )
        with asleep(*teacher.sleepers):
            try:
                step.gradient(teacher)
            except RuntimeError as error:
                said = str(error)
        found.append(_same(step.gradient(teacher), wanted))
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        bare = not any(hasattr(parameter, "main_grad") for parameter in model.parameters())
    return {"same": found, "awake": awake, "said": said, "frozen, bare": (frozen, bare, model.training)}
