"""Blocks of all ranks into one torch_dist checkpoint, written in the ranks themselves.

Megatron's own writer forks a process per file and starts a manager for them, for saving in the background.
That costs seconds a save where a model is small, forks processes that have threads, and leaves them behind
when a rank is killed. The format is torch.distributed.checkpoint's, whose own writer needs none of this.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from paced_megatron.models.distributed_checkpoint import saved_bytes, without_checksums
from paced_megatron.training.checkpoints.blocks import Block


class _Planner(DefaultSavePlanner):
    """This rank's blocks are its plan. On rank 0 torch checks that the blocks of all ranks fill every tensor
    without a gap or an overlap."""

    def __init__(self, blocks: Sequence[Block], empty: Sequence[str]) -> None:
        super().__init__(flatten_state_dict=False)
        self._data = {_index(block): block.data for block in blocks}
        self._items = [_item(block) for block in blocks]
        self._items += [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in empty]

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan(self._items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            return io.BytesIO(saved_bytes([None]))
        return self._data[write_item.index]


def _index(block: Block) -> MetadataIndex:
    return MetadataIndex(block.key, torch.Size(block.offsets))


def _item(block: Block) -> WriteItem:
    chunk = ChunkStorageMetadata(torch.Size(block.offsets), block.data.shape)
    data = TensorWriteData(chunk, TensorProperties(block.data.dtype), torch.Size(block.shape))
    return WriteItem(_index(block), WriteItemType.SHARD, tensor_data=data)


class _Writer(dcp.FileSystemWriter):
    """Raises what the disk said. torch.save puts an error of its own before it, and an exception loses its
    causes on the way to the other ranks."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            raise (cause or error) from None


def write_blocks(folder: Path, blocks: Sequence[Block], empty: Sequence[str]) -> None:
    """Write this rank's part as `__RANK_0.distcp`, and on rank 0 `.metadata`; fsynced. A collective.

    Raises:
        OSError: a rank can't write; it is raised on all of them.
    """
    planner = _Planner([block for block in blocks if block.written], empty)
    try:
        with without_checksums():
            dcp.save({}, storage_writer=_Writer(folder), planner=planner)
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise failure from None
        raise RuntimeError(str(error)) from error  # torch's own is no Exception
