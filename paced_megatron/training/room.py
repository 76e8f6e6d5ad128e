"""Whether the disk has room for the next checkpoint: asked while nothing would be lost."""

from __future__ import annotations

import shutil
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.models.gpt import parameters_by_name
from paced_megatron.training.checkpoints import latest_iteration
from paced_megatron.training.checkpoints.folder import discard_unfinished, folder_of
from paced_megatron.training.trainer import Trainer

MB = 2**20
MOMENTS = 2 * 4  # bytes that Adam keeps for a parameter
MAIN_COPY = 4  # and its float32 copy, where parameters are of another type


def check_room(checkpoints: Path, trainer: Trainer) -> None:
    """Rank 0 only.

    A checkpoint's size is that of the newest one, or counted from the models where there is none.

    Raises:
        UserError: the disk that holds `checkpoints` has less room.
    """
    discard_unfinished(checkpoints)  # or what a kill left would take the room of what is to come
    done = latest_iteration(checkpoints)
    needed = _bytes_in(folder_of(checkpoints, done)) if done else _counted_bytes(trainer)
    there = next(folder for folder in (checkpoints, *checkpoints.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        kept = f"; {folder_of(checkpoints, done).name} is kept" if done else ""
        raise UserError(
            f"{checkpoints}: the next checkpoint takes {needed / MB:.1f} MB and the disk has "
            f"{free / MB:.1f} MB left: make room and start the run again, which goes on from step "
            f"{done}{kept}"
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _counted_bytes(trainer: Trainer) -> int:
    """Weights of all models, and the student's optimizer; this rank's part times the number of parts."""
    total = 0
    for name, chunks in trainer.models.items():
        for parameter in parameters_by_name(chunks).values():
            size = parameter.element_size()
            if name == "student":
                size += MOMENTS + (MAIN_COPY if parameter.element_size() != 4 else 0)
            total += parameter.numel() * size
    groups = trainer.world.groups
    return total * groups.tp.size() * groups.pp.size()
