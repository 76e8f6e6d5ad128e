"""What the ranks of a step test do: build teacher and student on Megatron-Core, and take the gradient of one
batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import hugging_face_tensors, load_weights
from paced_megatron.models.gpt import build_chunks, parameters_by_name
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups
from paced_megatron.training.batches import micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.step import Objective, accumulate_gradient
from paced_megatron.training.student import Student
from paced_megatron.training.teacher import Teacher


@dataclass(frozen=True)
class Case:
    """A batch's layout and objective; `global_batch_size` is more than the tests' texts are."""

    tensor_model_parallel_size: int
    divergence: str
    micro_batch_size: int
    normalization: str = "problems"
    global_batch_size: int = 8
    temperature: float = 1.0
    dtype: torch.dtype = torch.float64
    parameter: float | None = None


def step_gradient(
    rank: int,
    world_size: int,
    student_folder: Path,
    teacher_folder: Path,
    examples: list[Example],
    case: Case,
):
    """(the step's sums, gradient by Hugging Face name; None on all ranks but the first)."""
    torch.set_default_dtype(case.dtype)
    with megatron_on_cpu():
        groups = parallel_groups(case.tensor_model_parallel_size, seed=1)
        shape = model_shape(student_folder)
        chunks = build_chunks(shape, groups, case.dtype)
        load_weights(chunks, shape, student_folder, groups)
        teacher = Teacher.from_folder(teacher_folder, groups, case.dtype)
        student = Student.of(shape, chunks, groups)
        student.zero_grad()
        sums = accumulate_gradient(
            student,
            teacher,
            micro_batches(
                examples,
                normalization=case.normalization,
                global_batch_size=case.global_batch_size,
                micro_batch_size=case.micro_batch_size,
                data_parallel_size=groups.dp.size(),
            ),
            Objective(
                divergence=case.divergence,
                parameter=case.parameter,
                vocab_size=min(shape.vocab_size, teacher.shape.vocab_size),
                temperature=case.temperature,
                workspace_mb=0.02,  # a few tokens a chunk, so that there are several
            ),
        )
        gradients = {name: parameter.main_grad for name, parameter in parameters_by_name(chunks).items()}
        whole = dict(hugging_face_tensors(gradients, shape, groups))
    return sums, whole if rank == 0 else None
