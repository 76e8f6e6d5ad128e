"""A Hugging Face folder, written as its tensors come: no more than one of them is held at a time.

Safetensors begins with a header that has every tensor's place. Its length is reserved, the tensors are
appended, and the header comes last: a file that was not finished cannot be read as one that was.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paced_megatron.errors import UserError, may_not_be_read
from paced_megatron.models.families import read_config
from paced_megatron.models.output import output_folder
from paced_megatron.models.weight_files import INDEX, SINGLE

GB = 10**9
MAX_SHARD_SIZE = 5 * GB

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}

# What belongs to a model beside its weights; copied from the source, since rebuilding loses rope scaling,
# special tokens and the like. Pickles and code are left where they are.
_COMPANIONS = (
    *("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*"),
    "additional_chat_templates/*.jinja",  # where transformers puts all but the default one of several
)


def write_folder(
    tensors: Iterable[tuple[str, Tensor]],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    out: Path,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Write a model as a Hugging Face folder, whole or not at all, with the source's companion files.

    Args:
        tensors: whole tensors under Hugging Face's names, on any device, in any order; each is let go before
            the next is asked for.
        shapes: of all tensors that the folder shall have, by name.
        source: the folder that config.json, the tokenizer and the like are copied from; its weights, where
            it has any, are not read.
        dtype: of the weights; None leaves each as it comes. config.json is made to say the same.
        replace: allow `out` to be there already.
        max_shard_size: bytes; with more than that there are several files and an index.

    Raises:
        FileExistsError: `out` is there already, and `replace` is False.
        UserError: the disk is full, or a number is beyond float16; nothing is left of the folder then.
        ValueError: the tensors that came are not those of `shapes`; nothing is left of the folder then.
    """
    with output_folder(out, replace=replace) as folder:
        fill_folder(folder, tensors, shapes=shapes, source=source, dtype=dtype, max_shard_size=max_shard_size)


def fill_folder(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    dtype: torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """`write_folder` into an empty folder that somebody else makes whole."""
    written = _write_weights(tensors, shapes, folder, dtype, max_shard_size)
    copy_companions(source, folder)
    _set_dtype(source, folder, written)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy config.json, the tokenizer and what else belongs to a model, without its weights."""
    for pattern in _COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                copy = folder / path.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                try:
                    shutil.copyfile(path, copy)
                except PermissionError:
                    raise may_not_be_read(path) from None


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_size: int,
) -> torch.dtype:
    """Write the shards and their index; return the dtype that most bytes have."""
    missing = dict(shapes)
    shards: list[_Shard] = []
    sizes: Counter[torch.dtype] = Counter()
    try:
        for name, tensor in tensors:
            shape = missing.pop(name, None)
            if shape is None:
                raise ValueError(f"tensor {name} came twice, or is none of this model's")
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"tensor {name}: shape {list(tensor.shape)}, not {list(shape)}")
            tensor = rounded(tensor.detach().cpu(), dtype, name).contiguous()
            if not shards or not shards[-1].has_room(tensor, max_shard_size):
                for shard in shards[-1:]:
                    shard.finish()
                shards.append(_Shard(folder / f"{len(shards)}.part", {name: shape} | missing))
            shards[-1].append(name, tensor)
            sizes[tensor.dtype] += tensor.nbytes
        if missing:
            raise ValueError(f"tensor {min(missing)} did not come")
        for shard in shards[-1:]:
            shard.finish()
    finally:
        for shard in shards:
            shard.file.close()
    _name_shards(folder, shards)
    return sizes.most_common(1)[0][0]


def rounded(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """The tensor in that dtype, or as it is.

    Raises:
        UserError: a number of it is beyond float16, and would become infinite; by `name`.
    """
    if dtype == torch.float16 != tensor.dtype:
        for edge in tensor.aminmax():
            if edge.isfinite() and edge.to(dtype).isinf():
                raise UserError(
                    f"tensor {name}: a number of {edge.item():.3g} is beyond float16; take bfloat16"
                )
    return tensor.to(dtype or tensor.dtype)


class _Shard:
    """One safetensors file that grows."""

    def __init__(self, path: Path, candidates: Mapping[str, tuple[int, ...]]) -> None:
        """`candidates`: the shapes of all tensors that may come into this file."""
        self.path = path
        self.entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self.size = 0
        widest = {name: _entry("BF16", shape, 2**60, 2**60) for name, shape in candidates.items()}
        self._room = -(-len(json.dumps(self.entries | widest)) // 8) * 8
        self.file = path.open("xb")
        self.file.seek(8 + self._room)

    def has_room(self, tensor: Tensor, max_shard_size: int) -> bool:
        """Whether the tensor fits, at a place where its dtype may begin."""
        return self.size + tensor.nbytes <= max_shard_size and self.size % tensor.element_size() == 0

    def append(self, name: str, tensor: Tensor) -> None:
        end = self.size + tensor.nbytes
        self.entries[name] = _entry(_DTYPES[tensor.dtype], tensor.shape, self.size, end)
        self.file.write(tensor.flatten().view(torch.uint8).numpy().data)
        self.size = end

    def finish(self) -> None:
        """Write the header, without which nothing can read the file. It is filled up with blanks, as the
        format allows."""
        header = json.dumps(self.entries).encode().ljust(self._room)
        assert len(header) == self._room
        self.file.seek(0)
        self.file.write(self._room.to_bytes(8, "little") + header)
        self.file.close()


def _entry(dtype: str, shape: Iterable[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def _name_shards(folder: Path, shards: list[_Shard]) -> None:
    """One file has the plain name; several are counted, and get an index."""
    if len(shards) == 1:
        shards[0].path.rename(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard.path.rename(folder / name)
        weight_map |= dict.fromkeys(shard.entries.keys() - {"__metadata__"}, name)
    total = sum(shard.size for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _set_dtype(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Make config.json say the dtype of the weights. transformers 5 calls the field `dtype`, older releases
    `torch_dtype`; where the file has both, both are set."""
    config = read_config(source)
    fields = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
    wanted = str(dtype).removeprefix("torch.")
    if any(config.get(name) != wanted for name in fields):
        config |= dict.fromkeys(fields, wanted)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
