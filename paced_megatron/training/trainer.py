"""A student, its teacher and its optimizer, ready to take steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from paced_megatron.config import StageConfig, TrainingConfig
from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.folder import load_weights
from paced_megatron.models.gpt import HiddenStatesModel, build_model
from paced_megatron.runtime.world import World
from paced_megatron.training.batches import micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.optimizer import make_optimizer, make_schedule
from paced_megatron.training.step import Objective, StepSums, accumulate_gradient, distributed_student

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(folder: Path, world: World, training: TrainingConfig) -> tuple[ModelShape, HiddenStatesModel]:
    """This rank's part of the model in a Hugging Face folder, in the training's dtype."""
    shape = model_shape(folder)
    model = build_model(shape, world.groups, DTYPES[training.params_dtype])
    load_weights(model, shape, folder, world.groups)
    return shape, model


@dataclass(frozen=True)
class Trainer:
    """What a step needs. The teacher has no wrapper, no gradient buffer and no optimizer."""

    world: World
    training: TrainingConfig
    objective: Objective
    student: DistributedDataParallel
    teacher: HiddenStatesModel
    optimizer: MegatronOptimizer
    schedule: OptimizerParamScheduler

    @classmethod
    def from_folders(
        cls,
        world: World,
        stage: StageConfig,
        training: TrainingConfig,
        *,
        student_folder: Path,
        teacher_folder: Path,
    ) -> Trainer:
        """Load both models; optimizer and schedule start afresh, as they do in every stage."""
        student_shape, model = load_model(student_folder, world, training)
        teacher_shape, teacher = load_model(teacher_folder, world, training)
        student = distributed_student(model.train(), world.groups)
        optimizer = make_optimizer(student, training, world.groups)
        return cls(
            world=world,
            training=training,
            objective=Objective(
                divergence=stage.divergence,
                parameter=stage.divergence_parameter,
                vocab_size=min(student_shape.vocab_size, teacher_shape.vocab_size),
                temperature=training.temperature,
                workspace_mb=training.loss_workspace_mb,
            ),
            student=student,
            teacher=teacher.requires_grad_(False).eval(),
            optimizer=optimizer,
            schedule=make_schedule(optimizer, training, stage.train_iters),
        )

    def step(self, batch: Sequence[Example]) -> tuple[StepSums, float, float]:
        """One optimizer step on a global batch: (sums over the batch, gradient norm before clipping, learning
        rate).

        Raises:
            UserError: the loss or the gradient's norm is not a finite number; no checkpoint must be written
                after it.
        """
        groups = self.world.groups
        self.student.zero_grad_buffer()
        self.optimizer.zero_grad()
        mine = micro_batches(
            batch,
            normalization=self.training.normalization,
            global_batch_size=self.training.global_batch_size,
            micro_batch_size=self.training.micro_batch_size,
            data_parallel_rank=groups.dp.rank(),
            data_parallel_size=groups.dp.size(),
        )
        sums = accumulate_gradient(self.student, self.teacher, mine, self.objective, groups)
        lr = self.optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self.optimizer.step()
        self.schedule.step(increment=1)
        if not (math.isfinite(sums.loss) and math.isfinite(grad_norm)):
            problems = ", ".join(example.problem_id for example in batch)
            raise UserError(
                f"loss {sums.loss}, gradient norm {float(grad_norm)}: not finite, so training stops; "
                f"the checkpoint before it is kept; try a lower training.lr; this step's problems: {problems}"
            )
        return sums, float(grad_norm), lr
