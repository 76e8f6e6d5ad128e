"""What each rank does in the test of checkpoints: train, save, train on; then load, and train on again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor

from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.models.gpt import parameters_by_name
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.checkpoints import load_checkpoint, save_checkpoint
from paced_megatron.training.examples import Example
from paced_megatron.training.trainer import Trainer


def _trainer(
    rank: int, world_size: int, models: tuple[Path, Path], training: TrainingConfig, parallel: ParallelConfig
) -> Trainer:
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
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
        training,
        parallel,
        student_folder=models[0],
        teacher_folder=models[1],
    )


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    trainer.student.settle()
    return {
        name: weight.detach().clone() for name, weight in parameters_by_name(trainer.student.chunks).items()
    }


def saved_and_loaded(
    rank: int,
    world_size: int,
    folder: Path,
    models: tuple[Path, Path],
    batch: Sequence[Example],
    training: TrainingConfig,
    parallel: ParallelConfig,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights that this rank has saved; names of those of its weights that differ after four steps in a
    row and after two, a checkpoint, and two more from it; names of those that the last two steps changed."""
    with megatron_on_cpu():
        whole = _trainer(rank, world_size, models, training, parallel)
        for step in (1, 2, 3, 4):
            whole.step(batch)
            if step == 2:
                save_checkpoint(folder, 2, whole)
                halfway = _weights(whole)
        resumed = _trainer(rank, world_size, models, training, parallel)
        load_checkpoint(folder, 2, resumed)
        for _ in range(2):
            resumed.step(batch)
        one, other = _weights(whole), _weights(resumed)
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    saved = torch.load(folder / "iter_0000002" / f"rank_{rank:03d}.pt", weights_only=True)["models"][
        "student"
    ]
    return saved, differ, [name for name in one if not torch.equal(one[name], halfway[name])]
