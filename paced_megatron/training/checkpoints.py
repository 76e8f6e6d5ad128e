"""Checkpoints of a stage: whole or not at all, the last few kept.

`checkpoints/iter_0000020/` holds one file a rank. All ranks write into a folder of another name, which rank 0
renames when everybody is done; so a folder called iter_* is complete, and resuming means taking the highest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from paced_megatron.models.gpt import HiddenStatesModel, parameters_by_name
from paced_megatron.training.optimizer import load_optimizer_state, optimizer_state
from paced_megatron.training.trainer import Trainer

KEEP = 2  # the newest, and the one before it


def _folder(checkpoints: Path, iteration: int) -> Path:
    return checkpoints / f"iter_{iteration:07d}"


def _rank_file(folder: Path) -> Path:
    return folder / f"rank_{dist.get_rank():03d}.pt"


def latest_iteration(checkpoints: Path) -> int:
    """The number of optimizer steps in the newest checkpoint, 0 where there is none."""
    iterations = (int(folder.name.removeprefix("iter_")) for folder in checkpoints.glob("iter_*[0-9]"))
    return max(iterations, default=0)


def save_checkpoint(checkpoints: Path, iteration: int, trainer: Trainer) -> None:
    """Write the state after `iteration` steps. A collective over all ranks of the job; what a killed save
    left is replaced."""
    final, partial = _folder(checkpoints, iteration), checkpoints / f"saving_{iteration:07d}"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    trainer.student.settle()
    state = {
        "models": {name: parameters_by_name(chunks) for name, chunks in trainer.models.items()},
        "optimizer": optimizer_state(trainer.optimizer),
        "schedule": trainer.schedule.state_dict(),
    }
    with open(_rank_file(partial), "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    dist.barrier()
    if dist.get_rank() == 0:
        partial.rename(final)
        for old in sorted(checkpoints.glob("iter_*[0-9]"))[:-KEEP]:
            shutil.rmtree(old)
    dist.barrier()


def _read(checkpoints: Path, iteration: int) -> dict[str, Any]:
    return torch.load(_rank_file(_folder(checkpoints, iteration)), map_location="cpu", weights_only=True)


@torch.no_grad()
def _copy_weights(weights: dict[str, torch.Tensor], chunks: Sequence[HiddenStatesModel]) -> None:
    for name, parameter in parameters_by_name(chunks).items():
        parameter.copy_(weights[name])


def load_checkpoint(checkpoints: Path, iteration: int, trainer: Trainer) -> None:
    """Put the state after `iteration` steps back, into objects made from the same configuration on the same
    layout."""
    state = _read(checkpoints, iteration)
    for name, chunks in trainer.models.items():
        _copy_weights(state["models"][name], chunks)
    load_optimizer_state(trainer.optimizer, state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])


def load_model_weights(checkpoints: Path, iteration: int, chunks: Sequence[HiddenStatesModel]) -> None:
    """Only the student's weights of a checkpoint, into its chunks at the same layout."""
    _copy_weights(_read(checkpoints, iteration)["models"]["student"], chunks)
