"""A Megatron distributed checkpoint (torch_dist) on disk, one tensor at a time, without a model or a job.

The format is that of torch.distributed.checkpoint with a few files of Megatron's beside it. Names and layouts
of models are not known here: `convert.py` brings them.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.utils import _create_file_view

from paced_megatron.errors import UserError
from paced_megatron.models.checkpoint_metadata import CONFIG, FORMAT, MetadataReader

COMMON = "common.pt"


class Checkpoint:
    """A checkpoint's tensors by key, read piece by piece, whatever the layout that wrote them.

    Attributes:
        shapes: of all tensors, by key; other entries (optimizer steps, `_extra_state`) are not in it.
        scratch: the memory that `read` hands out.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: that of one iteration, as `find_checkpoint` gives it."""
        self.folder = folder
        metadata = MetadataReader(folder).read_metadata()
        self._places: Mapping[MetadataIndex, Any] = metadata.storage_data
        self._tensors = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self.shapes = {key: tuple(entry.size) for key, entry in self._tensors.items()}
        self.scratch = Scratch()

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors[key].properties.dtype

    def check_files(self, keys: Sequence[str]) -> None:
        """Raise UserError when a file that these tensors lie in is missing or too short: read sizes only."""
        wanted = set(keys)
        ends: dict[str, int] = {}
        for index, place in self._places.items():
            if index.fqn in wanted:
                end = place.offset + place.length
                ends[place.relative_path] = max(end, ends.get(place.relative_path, 0))
        for name, end in sorted(ends.items()):
            path = self.folder / name
            if not path.is_file():
                raise UserError(f"{path}: is missing, though the checkpoint's metadata names it")
            if path.stat().st_size < end:
                raise UserError(
                    f"{path}: is cut off; {end} bytes are needed, {path.stat().st_size} are there"
                )

    def read(self, key: str, layer: int | None = None) -> Tensor:
        """A whole tensor, or one layer's of those that are stacked along the first axis, on the CPU.

        It lies in `scratch`, and is gone when that is cleared.

        Raises:
            UserError: a piece of it is missing, or its file can't be read.
        """
        shape = self.shapes[key]
        start = (0,) * len(shape) if layer is None else (layer, *[0] * (len(shape) - 1))
        size = shape if layer is None else (1, *shape[1:])
        tensor = self.scratch.empty(size, self.dtype(key))
        self.read_into(tensor, key, start)
        return tensor if layer is None else tensor[0]

    def read_into(self, tensor: Tensor, key: str, start: Sequence[int]) -> None:
        """Fill `tensor` with the box of its size that begins at `start` in the whole.

        Raises:
            UserError: as `read`.
        """
        size, filled = tuple(tensor.shape), 0
        for chunk in self._tensors[key].chunks:
            begin = tuple(map(max, chunk.offsets, start))
            end = tuple(map(min, _plus(chunk.offsets, chunk.sizes), _plus(start, size)))
            lengths = _minus(end, begin)
            if min(lengths, default=1) <= 0:
                continue
            target = tensor[_slices(_minus(begin, start), lengths)]
            self._read_chunk(key, chunk, _slices(_minus(begin, chunk.offsets), lengths), target)
            filled += target.numel()
        if filled != tensor.numel():
            raise UserError(f"{self.folder}: {key}: the checkpoint doesn't hold all of it")

    def _read_chunk(
        self, key: str, chunk: ChunkStorageMetadata, part: tuple[slice, ...], target: Tensor
    ) -> None:
        """Copy a part of a chunk into `target`, straight from the file where the chunk lies there in one run
        and all of it is wanted."""
        place = self._places.get(MetadataIndex(key, chunk.offsets))
        if place is None:
            raise UserError(f"{self.folder}: {key}: the checkpoint doesn't hold all of it")
        path = self.folder / place.relative_path
        try:
            with path.open("rb") as file:
                view = cast(IO[bytes], _create_file_view(file, place.offset, place.length))
                # Without its bytes first. An unpickler of torch's own, which makes tensors and no more.
                saved = torch.load(view, map_location="meta", weights_only=True)
                self._checksaved_bytes(saved, key, chunk)
                alike = (target.shape, target.dtype) == (saved.shape, saved.dtype)
                if alike and _is_plain(target) and _in_one_run(saved):
                    view.seek(0)
                    archive: Any = torch._C.PyTorchFileReader(view)
                    file.seek(place.offset + archive.get_record_offset("data/0"))
                    if file.readinto(_bytes_of(target)) != target.nbytes:  # type: ignore[attr-defined]
                        raise ValueError("the file is cut off")
                else:
                    view.seek(0)
                    target.copy_(torch.load(view, map_location="cpu", weights_only=True)[part])
        except Exception as error:  # a damaged file raises nearly anything
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: {key} can't be read ({reason})") from None

    def _checksaved_bytes(self, saved: Any, key: str, chunk: ChunkStorageMetadata) -> None:
        if not isinstance(saved, Tensor) or saved.shape != chunk.sizes or saved.dtype != self.dtype(key):
            raise ValueError("it is not what the checkpoint's metadata says")


class Scratch:
    """Memory that is used again and again: getting it anew from the system costs more than filling it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def clear(self) -> None:
        """What was handed out before may be overwritten from now on."""
        self._used = 0

    def empty(self, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        start = -(-self._used // 64) * 64
        end = start + math.prod(size) * dtype.itemsize
        if end > self._memory.numel():
            if start:  # what was handed out stays where it is
                return torch.empty(tuple(size), dtype=dtype)
            self._memory = torch.empty(0, dtype=torch.uint8)  # before the larger one is there
            self._memory = torch.empty(end, dtype=torch.uint8)
        self._used = end
        return self._memory[start:end].view(dtype).view(tuple(size))


def _in_one_run(saved: Tensor) -> bool:
    """Whether its elements lie in the file as in a contiguous tensor of its own."""
    return (
        saved.is_contiguous()
        and saved.storage_offset() == 0
        and saved.untyped_storage().nbytes() == saved.nbytes
    )


def _is_plain(target: Tensor) -> bool:
    """Whether bytes from a file can be put straight into it."""
    return target.is_contiguous() and target.device.type == "cpu"


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


@dataclass(frozen=True)
class Piece:
    """One tensor to write, or one layer's of those that are stacked along the first axis.

    Attributes:
        key: its name in the checkpoint.
        shape: of the whole, with the axis of the layers where there is one.
        layer: which layer this is; None for what is in no layer.
        make: gives the tensor, without the axis of the layers; called once, when it is written.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layer: int | None
    make: Callable[[], Tensor]

    @property
    def item(self) -> WriteItem:
        offsets, sizes = [0] * len(self.shape), list(self.shape)
        if self.layer is not None:
            offsets[0], sizes[0] = self.layer, 1
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        data = TensorWriteData(chunk, TensorProperties(self.dtype), torch.Size(self.shape))
        return WriteItem(MetadataIndex(self.key, chunk.offsets), WriteItemType.SHARD, tensor_data=data)


class _Planner(DefaultSavePlanner):
    """Hands torch's writer each tensor at the moment when it is written."""

    def __init__(self, pieces: Sequence[Piece], empty: bytes) -> None:
        super().__init__()
        self._pieces = {piece.item.index: piece for piece in pieces}
        self._empty = empty

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            return io.BytesIO(self._empty)
        piece = self._pieces[write_item.index]
        tensor = piece.make()
        if piece.layer is not None:
            tensor = tensor.unsqueeze(0)
        data = write_item.tensor_data
        assert data is not None and tensor.shape == data.chunk.sizes and tensor.dtype == piece.dtype
        return tensor


def write_checkpoint(
    folder: Path, groups: Sequence[Sequence[Piece]], empty_objects: Sequence[str], common: Mapping[str, Any]
) -> None:
    """Write a checkpoint that Megatron-Core's dist_checkpointing loads, into an empty folder.

    Args:
        groups: what is written into one file each; no more than one group is held in memory.
        empty_objects: keys of objects that a model asks for and that hold nothing (`_extra_state`).
        common: what is no tensor; every rank reads it whole.
    """
    # Whoever makes the folder whole syncs it. Nothing is copied ahead: for that torch would start CUDA where
    # there is a GPU, of which a converter needs nothing and which somebody else may have to himself.
    writer = FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0)
    planner = _Planner([piece for group in groups for piece in group], saved_bytes([None]))
    nothing = [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in empty_objects]
    plans = [SavePlan(nothing), *(SavePlan([piece.item for piece in group]) for group in groups)]
    plans, metadata = create_default_global_save_plan(plans)
    writer.set_up_storage_writer(True)
    results = []
    with without_checksums():
        for plan in writer.prepare_global_plan(plans):
            results.append(writer.write_data(plan, planner).wait())
    writer.finish(metadata, results)
    write_common(folder, common)


def write_common(folder: Path, common: Mapping[str, Any]) -> None:
    """The two files by which Megatron's loader knows a checkpoint of the format."""
    config = {"sharded_backend": FORMAT, "sharded_backend_version": 1}
    config |= {"common_backend": "torch", "common_backend_version": 1}
    (folder / COMMON).write_bytes(saved_bytes(dict(common)))
    (folder / CONFIG).write_text(json.dumps(config))


@contextmanager
def without_checksums() -> Iterator[None]:
    """torch.save adds a CRC-32 that torch.load never looks at, and that takes eight times as long as the
    writing."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def saved_bytes(thing: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def _plus(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _minus(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(left, right, strict=True))


def _slices(offsets: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True))
