"""What each rank does in the tests of checkpoints: train, save, go on; load, at whatever layout."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from megatron.core import dist_checkpointing, parallel_state
from torch import Tensor

from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.models.gpt import parameters_by_name
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.batches import micro_batches
from paced_megatron.training.checkpoints import (
    load_checkpoint,
    load_model_weights,
    save_checkpoint,
)
from paced_megatron.training.examples import Example
from paced_megatron.training.step import accumulate_gradient
from paced_megatron.training.student import load_chunks
from paced_megatron.training.trainer import Trainer
from parallel.step_ranks import _gradients, _whole


@dataclass(frozen=True)
class Setting:
    """`models` are the folders of student and teacher, `batch` the problems of every step."""

    models: tuple[Path, Path]
    batch: Sequence[Example]
    training: TrainingConfig
    parallel: ParallelConfig


def _trainer(rank: int, world_size: int, setting: Setting) -> Trainer:
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel = setting.parallel
    groups = parallel_groups(
        parallel.tensor_model_parallel_size,
        1,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
    )
    lead = Lead(rank, world_size, torch.distributed.HashStore())  # nothing here waits for rank 0
    return Trainer.from_folders(
        World(rank, world_size, CPU, groups, lead),
        StageConfig(train_iters=4),
        setting.training,
        parallel,
        student_folder=setting.models[0],
        teacher_folder=setting.models[1],
    )


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    trainer.student.settle()
    return {
        name: weight.detach().clone() for name, weight in parameters_by_name(trainer.student.chunks).items()
    }


def _drawn() -> list[float]:
    """A number of each generator whose state is saved."""
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]


def saved_and_loaded(
    rank: int, world_size: int, folder: Path, setting: Setting
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights at the checkpoint; names of what differs after four steps in a row and after two, a
    checkpoint, and two more from it; names of the weights that the last two steps changed."""
    with megatron_on_cpu():
        whole = _trainer(rank, world_size, setting)
        for step in (1, 2, 3, 4):
            whole.step(setting.batch)
            if step == 2:
                save_checkpoint(folder, 2, whole)
                halfway, drawn = _weights(whole), _drawn()
        resumed = _trainer(rank, world_size, setting)
        _drawn()
        said = load_checkpoint(folder, 2, resumed)
        again = _drawn()
        for _ in range(2):
            resumed.step(setting.batch)
        one, other = _weights(whole), _weights(resumed)
        lrs = [trainer.optimizer.param_groups[0]["lr"] for trainer in (whole, resumed)]
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    differ += ["what is said"] * (said is not None) + ["random states"] * (drawn != again)
    differ += ["learning rate"] * (lrs[0] != lrs[1])
    return halfway, differ, [name for name in one if not torch.equal(one[name], halfway[name])]


def _next_gradient(trainer: Trainer, batch: Sequence[Example], rank: int) -> dict[str, Tensor] | None:
    """On rank 0, by Hugging Face name."""
    student = trainer.student
    student.zero_grad()
    trainer.optimizer.zero_grad()  # its step has made main_grad the parameters' grad
    batches = micro_batches(batch, trainer.batching)
    accumulate_gradient(student, trainer.teacher, batches, trainer.objective)
    return _whole(student, _gradients(student), rank)


def train_and_save(rank: int, world_size: int, folder: Path, setting: Setting) -> dict[str, Tensor] | None:
    """Two steps, a checkpoint; the gradient of the third."""
    with megatron_on_cpu():
        trainer = _trainer(rank, world_size, setting)
        for _ in range(2):
            trainer.step(setting.batch)
        save_checkpoint(folder, 2, trainer)
        return _next_gradient(trainer, setting.batch, rank)


def load_and_save(
    rank: int, world_size: int, folder: Path, again: Path, setting: Setting
) -> tuple[dict[str, Tensor] | None, str | None, bool]:
    """Load what `train_and_save` wrote, and save it again: (gradient of the third step, what is said of the
    layout, whether the student's weights alone, and Megatron's own loader, give the same weights)."""
    with megatron_on_cpu():
        trainer = _trainer(rank, world_size, setting)
        said = load_checkpoint(folder, 2, trainer)
        save_checkpoint(again, 2, trainer)
        same = _same_weights_by_other_doors(folder, trainer, setting)
        return _next_gradient(trainer, setting.batch, rank), said, same


def _same_weights_by_other_doors(folder: Path, trainer: Trainer, setting: Setting) -> bool:
    dtype = next(trainer.student.chunks[0].parameters()).dtype
    _, chunks = load_chunks(
        setting.models[0], trainer.world.groups, dtype, setting.training, setting.parallel
    )
    load_model_weights(folder, 2, chunks)
    exported = {name: weight.detach().clone() for name, weight in parameters_by_name(chunks).items()}
    loaded = parameters_by_name(chunks)
    for weight in loaded.values():
        weight.data.fill_(7)
    wanted = {str(number): chunk.sharded_state_dict() for number, chunk in enumerate(chunks)}
    states = dist_checkpointing.load(wanted, str(folder / "iter_0000002"))
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(states[str(number)], strict=True)
    mine = _weights(trainer)
    return all(
        torch.equal(weight, exported[name]) and torch.equal(weight[:260], loaded[name][:260])
        for name, weight in mine.items()
    )
