"""Saving and loading a stage's training. Every function here is a collective over all ranks of the job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from paced_megatron.errors import UserError
from paced_megatron.models.checkpoint_metadata import CONFIG, METADATA
from paced_megatron.models.distributed_checkpoint import COMMON, Checkpoint, write_common
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.runtime.files import make_whole
from paced_megatron.training.budget import Spent
from paced_megatron.training.checkpoints.blocks import (
    STUDENT,
    Block,
    model_blocks,
    model_entries,
    optimizer_blocks,
)
from paced_megatron.training.checkpoints.folder import (
    damage,
    file_entry,
    folder_of,
    latest_iteration,
    none_left,
    partial_folder_of,
    prune,
    set_aside,
    write_manifest,
)
from paced_megatron.training.checkpoints.state import (
    STATE,
    InForce,
    check_in_force,
    layout_of,
    load_rng,
    load_small_state,
    read_state,
    rng_file,
    shown_layout,
    spent_in,
    write_rng,
    write_state,
)
from paced_megatron.training.checkpoints.write import write_blocks
from paced_megatron.training.trainer import Trainer

T = TypeVar("T")


def save_checkpoint(
    checkpoints: Path, iteration: int, trainer: Trainer, in_force: InForce | None = None
) -> None:
    """Write the state after `iteration` steps, remove what `training.keep_checkpoints` doesn't keep.

    All ranks write into a folder of another name, on one file system that all of them see. When everything is
    on disk rank 0 renames it. What a killed save left is replaced.

    Raises:
        OSError: a rank can't write (a full disk, say); raised on all of them, and the older checkpoints are
            still there.
    """
    final, partial = folder_of(checkpoints, iteration), partial_folder_of(checkpoints, iteration)
    try:
        _together(lambda: _lead_only(lambda: _empty_folder(partial)))
        _write(partial, iteration, trainer, in_force)
        _together(lambda: _lead_only(lambda: _finish(partial, final, trainer.training.keep_checkpoints)))
    except (OSError, UserError):  # the manifest's writer tells of a full disk by itself
        _lead_only(lambda: shutil.rmtree(partial, ignore_errors=True))
        raise


def _write(partial: Path, iteration: int, trainer: Trainer, in_force: InForce | None) -> None:
    trainer.student.settle()
    blocks, empty = _blocks(trainer)
    write_blocks(partial, blocks, empty)
    rank = dist.get_rank()

    def small_files() -> dict[str, dict[str, Any]]:
        write_rng(rng_file(partial, rank))
        written = [*partial.glob(f"__{rank}_*.distcp")]
        for path in written:
            if not path.stat().st_size:  # a copy, which has nothing to write
                path.unlink()
        mine = [*filter(Path.exists, written), rng_file(partial, rank)]
        if rank == 0:
            write_common(partial, {"iteration": iteration})
            write_state(partial, iteration, trainer, in_force)
            mine += [partial / name for name in (METADATA, COMMON, CONFIG, STATE)]
        return {path.name: file_entry(path) for path in mine}

    files = {name: entry for of_rank in _together(small_files) for name, entry in of_rank.items()}
    _together(lambda: _lead_only(lambda: write_manifest(partial, files)))


def _empty_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _finish(partial: Path, final: Path, keep: int) -> None:
    if final.exists():  # of a run that began anew behind it; it is the same step of the same run
        shutil.rmtree(final)
    make_whole(partial, final)
    prune(final.parent, keep)


def _blocks(trainer: Trainer) -> tuple[list[Block], list[str]]:
    """All of this rank's blocks, and the keys of the empty objects that it writes."""
    blocks: list[Block] = []
    empty: list[str] = []
    for name, chunks in trainer.models.items():
        entries, objects = model_entries(name, chunks)
        blocks += model_blocks(entries)
        empty += objects
        if name == STUDENT:
            blocks += optimizer_blocks(trainer.optimizer, entries)
    return blocks, empty


def load_checkpoint(
    checkpoints: Path, iteration: int, trainer: Trainer, in_force: InForce | None = None
) -> str | None:
    """Put the state after `iteration` steps back, bit for bit at the layout that wrote it.

    At another layout weights, optimizer and schedule are the same numbers; random states stay what they were
    at the start, for nothing in training draws from them; those of the device alone where it is another one
    (a GPU, the CPU).

    Returns:
        What to say where the layout or the device is another one.

    Raises:
        UserError: the stage's pass rates are no longer those in force then.
    """
    folder = folder_of(checkpoints, iteration)
    state = read_state(folder)
    if in_force is not None:
        check_in_force(folder, state, in_force)
    blocks, _ = _blocks(trainer)
    _read(Checkpoint(folder), blocks)
    load_small_state(state, trainer)
    before, now = state["layout"], layout_of(trainer)
    if before != now:
        return (
            f"{folder.name} was written at {shown_layout(before)}; training goes on from it at "
            f"{shown_layout(now)}, with the same data"
        )
    if devices := load_rng(rng_file(folder, dist.get_rank())):
        return (
            f"{folder.name} was written {devices}, with the same data, and with new random states of the "
            "device, of which nothing in training draws"
        )
    return None


def spent_at(checkpoints: Path, iteration: int) -> Spent:
    """What the stage had spent of its budget after so many steps; nothing before the first."""
    return spent_in(read_state(folder_of(checkpoints, iteration))) if iteration else Spent()


def load_model_weights(checkpoints: Path, iteration: int, chunks: Sequence[HiddenStatesModel]) -> None:
    """Only the student's weights of a checkpoint, into its chunks, at whatever layout."""
    entries, _ = model_entries(STUDENT, chunks)
    _read(Checkpoint(folder_of(checkpoints, iteration)), model_blocks(entries))


MAIN_WEIGHTS = "optimizer.state.fp32_param."


@torch.no_grad()
def _read(checkpoint: Checkpoint, blocks: Iterable[Block]) -> None:
    for block in blocks:
        key = block.key
        if (
            key not in checkpoint.shapes
        ):  # a bf16 run's norms were float32 once, and had no main weights beside
            key = key.removeprefix(MAIN_WEIGHTS)
        saved = checkpoint.shapes.get(key)
        if saved is None or saved[block.padded :] != block.shape[block.padded :]:
            raise UserError(
                f"{checkpoint.folder}: {block.key} has shape {saved}, and the student needs {block.shape}; "
                "it is a checkpoint of another model"
            )
        # The vocabulary is padded to a multiple of TP: rows of padding that another layout has not are zeros.
        rows = block.data.shape[0]
        there = min(max(saved[0] - block.offsets[0], 0), rows) if block.padded else rows
        if there:
            checkpoint.read_into(block.data[:there], key, block.offsets)
        block.data[there:].zero_()


def newest_whole(checkpoints: Path, say: Callable[[str], None]) -> int:
    """The number of steps in the newest checkpoint that is whole, 0 where there was never one.

    A damaged one is named, with what is wrong, and set aside as damaged_*. The ranks share the reading.

    Raises:
        UserError: all that there were are damaged; or they are of an earlier version's format.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    while True:
        iteration = _together(lambda: latest_iteration(checkpoints))[0]
        if not iteration:
            if error := _together(lambda: none_left(checkpoints))[0]:
                raise error
            return 0
        folder = folder_of(checkpoints, iteration)
        found = _together(lambda folder=folder: damage(folder, rank, world_size))  # type: ignore[misc]
        wrong = next((one for one in found if one), None)
        if wrong is None:
            return iteration
        aside = _together(lambda folder=folder: _lead_only(lambda: set_aside(folder)))[0]  # type: ignore[misc]
        assert aside is not None
        say(f"{folder} is damaged: {wrong}; it is set aside as {aside.name}, and the one before it is used")


def _lead_only(work: Callable[[], T]) -> T | None:
    return work() if dist.get_rank() == 0 else None


def _together(work: Callable[[], T]) -> list[T]:
    """What each rank's `work` gives, in rank order; when one has failed, all raise what it raised."""
    try:
        outcome: tuple[Any, Exception | None] = work(), None
    except (OSError, UserError) as error:
        outcome = None, error
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [result for result, _ in outcomes]
