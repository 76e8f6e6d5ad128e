"""A student, its teacher and its optimizer, ready to take steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from paced_megatron.config import Budget, ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.config.budget import budget_of
from paced_megatron.models.gpt import HiddenStatesModel, parameters_by_name
from paced_megatron.runtime.grad_norm import norm_on_device
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.runtime.world import World
from paced_megatron.training.batches import Batching, micro_batches
from paced_megatron.training.budget import Meter, tokens_of
from paced_megatron.training.examples import Example
from paced_megatron.training.finite import LossNotFinite, parameter_not_finite, stopped
from paced_megatron.training.optimizer import make_optimizer, make_schedule, optimizer_config, steps_taken
from paced_megatron.training.sleep import Sleeper, asleep, optimizer_state
from paced_megatron.training.step import Objective, StepSums, accumulate_gradient
from paced_megatron.training.student import Student
from paced_megatron.training.teacher_cache import TeacherCache
from paced_megatron.training.teachers import TEACHERS, TeacherSetting, Teaching
from paced_megatron.training.timers import PhaseTimers
from paced_megatron.training.token_weights import make_token_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# By how much an update moves the schedule, which counts the budget's unit; seconds are known after it.
KNOWN_IN_A_STEP: dict[str, Callable[[Sequence[Example]], int]] = {
    "train_iters": lambda batch: 1,
    "train_tokens": tokens_of,
    "train_seconds": lambda batch: 0,
}


@dataclass(frozen=True)
class Trainer:
    """What a step needs. The teacher has no wrapper, no gradient buffer and no optimizer."""

    world: World
    training: TrainingConfig
    batching: Batching
    objective: Objective
    student: Student
    teacher: Teaching
    optimizer: MegatronOptimizer
    schedule: OptimizerParamScheduler
    meter: Meter
    timers: PhaseTimers
    offload: bool = False

    @classmethod
    def from_folders(
        cls,
        world: World,
        stage: StageConfig,
        training: TrainingConfig,
        parallel: ParallelConfig,
        *,
        budget: Budget | None = None,
        student_folder: Path,
        teacher_folder: Path,
        teacher_offload: bool = False,
        teacher_cache: TeacherCache | None = None,
    ) -> Trainer:
        """Load student and teacher; optimizer and schedule start afresh, as they do in every stage.

        Args:
            budget: of the stage; None: the one that `stage` or `training` names.
            student_folder: the student with which the stage begins.
            teacher_folder: of a teacher that is frozen (see `Inputs.teacher_of`).
        """
        dtype = DTYPES[training.params_dtype]
        student = Student.from_folder(student_folder, world.groups, dtype, training, parallel)
        teacher = TEACHERS[stage.teacher](
            TeacherSetting(
                student,
                teacher_folder,
                world.teacher or place_teacher(world.groups),
                dtype,
                offload=teacher_offload,
                cache=teacher_cache,
                ema_decay=stage.ema_decay,
            )
        )
        optimizer = make_optimizer(student, optimizer_config(training, parallel, dtype))
        budget = budget or budget_of(stage, training)
        return cls(
            world=world,
            training=training,
            batching=Batching.of(training, parallel),
            objective=Objective(
                divergence=stage.divergence,
                parameter=stage.divergence_parameter,
                vocab_size=min(student.shape.vocab_size, teacher.shape.vocab_size),
                temperature=training.temperature,
                workspace_mb=training.loss_workspace_mb,
                kernels=training.loss_kernels,
                token_weights=make_token_weights(training),
            ),
            student=student,
            teacher=teacher,
            optimizer=optimizer,
            schedule=make_schedule(optimizer, training, budget),
            meter=Meter(budget),
            timers=PhaseTimers(student.device),
            offload=teacher_offload,
        )

    @property
    def models(self) -> dict[str, Sequence[HiddenStatesModel]]:
        """What training changes, by name, and a checkpoint has to hold."""
        models: dict[str, Sequence[HiddenStatesModel]] = {
            "student": self.student.chunks,
            "teacher": self.teacher.chunks,
        }
        return {name: chunks for name, chunks in models.items() if chunks}

    def asleep(self) -> AbstractContextManager[None]:
        """While it is entered, the device's memory is for something else (a rollout): the teacher, its head
        and the optimizer's state are on the host, where `teacher.offload` is on; elsewhere nothing moves."""
        if not self.offload:
            return nullcontext()
        state = Sleeper("optimizer", lambda: optimizer_state(self.optimizer, self.student.chunks))
        return asleep(*self.teacher.sleepers, state)

    def step(self, batch: Sequence[Example], tokens: float | None = None) -> tuple[StepSums, float, float]:
        """One optimizer step on a global batch: (sums over the batch, gradient norm before clipping, learning
        rate).

        Args:
            tokens: as in `micro_batches`.

        Raises:
            UserError: the loss or the gradient's norm is not a finite number; no checkpoint must be written
                after it.
        """
        self.student.zero_grad()
        self.optimizer.zero_grad()
        batches = micro_batches(batch, self.batching, tokens)
        problems, step = [example.problem_id for example in batch], steps_taken(self.optimizer) + 1
        try:
            sums = accumulate_gradient(self.student, self.teacher, batches, self.objective, self.timers)
        except LossNotFinite as error:
            raise stopped(step, f"loss {error.value}", error.problem_ids, problems) from None
        lr = self.optimizer.param_groups[0]["lr"]
        with self.timers.phase("optimizer"), norm_on_device():
            _, norm, _ = self.optimizer.step()
        grad_norm = float(norm)  # of some of Megatron's kernels it is still on the device
        self.schedule.step(increment=KNOWN_IN_A_STEP[self.meter.budget.name](batch))
        if not math.isfinite(grad_norm):  # the weights are spoiled, and are never written
            found = parameter_not_finite([*parameters_by_name(self.student.chunks).items()])
            raise stopped(step, f"gradient norm {grad_norm}", found, problems)
        self.teacher.follow()
        return sums, grad_norm, lr

    def count(self, batch: Sequence[Example], seconds: float) -> None:
        """Count a step that took so many seconds, the same on all ranks; of no texts it moves no learning
        rate."""
        self.meter.count(tokens_of(batch), seconds)
        if batch and self.meter.budget.name == "train_seconds":
            self.schedule.step(increment=self.meter.spent.seconds - self.schedule.num_steps)
