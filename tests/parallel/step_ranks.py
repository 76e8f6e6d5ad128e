"""What the ranks of a step test do: build teacher and student on Megatron-Core at a layout, take the gradient
of one batch, and steps, with the package's own step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.models.folder import hugging_face_tensors
from paced_megatron.models.gpt import parameters_by_name
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.teacher_groups import TeacherPlace, place_teacher
from paced_megatron.runtime.world import parallel_groups
from paced_megatron.training.batches import Batching, micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.optimizer import make_optimizer, optimizer_config
from paced_megatron.training.step import Objective, StepSums, accumulate_gradient
from paced_megatron.training.student import Student
from paced_megatron.training.teachers import TEACHERS, TeacherSetting
from paced_megatron.training.token_weights import TokenWeights, make_token_weights

PLAIN = 1e4  # Adam's epsilon, for plain gradient steps


@dataclass(frozen=True)
class Case:
    """A layout, an objective, and how a batch is cut.

    Attributes:
        parallel, training: the configuration's own keys.
        teacher: keyword arguments of `place_teacher`.
        kind: `teacher` of the stage, with `ema_decay`.
        plain_steps: plain gradient steps with learning rate `training.lr` that are taken before the gradient.
        token_weights: instead of the row of TOKEN_WEIGHTS that `training` names.
        tokens: of the whole batch, where problems were left out of it.
    """

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    training: TrainingConfig = field(
        # global_batch_size is more than the tests' texts are: the denominator is the configured number
        default_factory=lambda: TrainingConfig(micro_batch_size=2, global_batch_size=8, lr=1.0)
    )
    divergence: str = "forward_kl"
    parameter: float | None = None
    dtype: torch.dtype = torch.float64
    teacher: dict[str, int] = field(default_factory=dict)
    kind: str = "model"
    ema_decay: float | None = None
    plain_steps: int = 0
    token_weights: TokenWeights | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class Found:
    """The step's sums on this rank; on the first rank gradients and weights by Hugging Face name.

    `grad_norm` is the optimizer's at the first of the plain steps, by which it would clip.
    """

    sums: StepSums
    gradient: dict[str, Tensor] | None
    weights: dict[str, Tensor] | None
    grad_norm: float | None = None


def step_gradients(
    rank: int,
    world_size: int,
    works: Sequence[tuple[Path, Path, Sequence[Example], Case]],
) -> list[Found]:
    """Each work, (student's folder, teacher's folder, examples, case), in turn."""
    with megatron_on_cpu():
        return [_one(rank, *work) for work in works]


def _one(
    rank: int, student_folder: Path, teacher_folder: Path, examples: Sequence[Example], case: Case
) -> Found:
    parallel = case.parallel
    groups = parallel_groups(
        parallel.tensor_model_parallel_size,
        1,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
    )
    place = place_teacher(groups, **case.teacher)
    found = found_on(rank, groups, place, student_folder, teacher_folder, examples, case)
    parallel_state.destroy_model_parallel()
    return found


def found_on(
    rank: int,
    groups: ProcessGroupCollection,
    place: TeacherPlace,
    student_folder: Path,
    teacher_folder: Path,
    examples: Sequence[Example],
    case: Case,
) -> Found:
    """What one work finds, with the student on these groups."""
    torch.set_default_dtype(case.dtype)
    parallel = case.parallel
    student = Student.from_folder(student_folder, groups, case.dtype, case.training, parallel)
    teacher = TEACHERS[case.kind](
        TeacherSetting(student, teacher_folder, place, case.dtype, ema_decay=case.ema_decay)
    )
    objective = Objective(
        divergence=case.divergence,
        parameter=case.parameter,
        vocab_size=min(student.shape.vocab_size, teacher.shape.vocab_size),
        temperature=case.training.temperature,
        workspace_mb=0.02,  # a few tokens a chunk, so that there are several
        token_weights=case.token_weights or make_token_weights(case.training),
    )
    batching = dataclasses.replace(Batching.of(case.training, parallel), data_parallel_size=groups.dp.size())
    batches = micro_batches(examples, batching, case.tokens)

    def accumulate() -> StepSums:
        student.zero_grad()
        return accumulate_gradient(student, teacher, batches, objective)

    norms: list[float] = []
    if case.plain_steps:
        # Megatron's distributed optimizer knows Adam alone. With an epsilon that everything else is small
        # beside, and no memory, its step is lr * gradient.
        config = dataclasses.replace(
            optimizer_config(case.training, parallel, case.dtype),
            lr=case.training.lr * PLAIN,
            adam_eps=PLAIN,
            adam_beta1=0.0,
            weight_decay=0.0,
            clip_grad=1e9,  # the norm is taken, and nothing is clipped
        )
        optimizer = make_optimizer(student, config)
        for _ in range(case.plain_steps):
            accumulate()
            norms.append(float(optimizer.step()[1]))
            teacher.follow()
            optimizer.zero_grad()  # it has made main_grad the parameters' grad
    sums = accumulate()
    student.settle()
    gradients, weights = _whole(student, _gradients(student), rank), _whole(student, _weights(student), rank)
    return Found(sums, gradients, weights, norms[0] if norms else None)


def _whole(student: Student, tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor] | None:
    if student.groups.dp.rank():
        return None
    whole = {
        name: tensor.clone() for name, tensor in hugging_face_tensors(tensors, student.shape, student.groups)
    }
    return whole if rank == 0 else None


def _weights(student: Student) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in parameters_by_name(student.chunks).items()}


def _gradients(student: Student) -> dict[str, Tensor]:
    """Of each parameter its `main_grad`; the distributed optimizer's ranks have a part of the sum each."""
    for chunk in student.wrapped:
        for bucket in (bucket for buffer in chunk.buffers for bucket in buffer.buckets):
            if chunk.ddp_config.use_distributed_optimizer:
                dp = student.groups.dp
                mine = bucket.grad_data.view(dp.size(), -1)[dp.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, mine, group=dp)
    return {name: parameter.main_grad for name, parameter in parameters_by_name(student.chunks).items()}
