"""Where in its files a distributed checkpoint has what: `metadata.json` and `.metadata`, read with distrust.

`.metadata` is a pickle. It is read by an unpickler that knows the few classes which torch and Megatron put
there, so that nothing in it is ever run.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from paced_megatron.errors import UserError, may_not_be_read

FORMAT = "torch_dist"
TRACKER, CONFIG, METADATA = "latest_checkpointed_iteration.txt", "metadata.json", ".metadata"

_OF = "torch.distributed.checkpoint."
_CLASSES = {
    (_OF + "metadata", name)
    for name in (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
}
_CLASSES |= {
    (_OF + "planner", name)
    for name in ("BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
}
_CLASSES |= {
    (_OF + "filesystem", "_StorageInfo"),
    (_OF + "filesystem", "_StoragePrefix"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),  # gives torch.strided for its name, and the like
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"),
}


class _Unpickler(pickle.Unpickler):
    """Knows only what a checkpoint's metadata is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class MetadataReader(FileSystemReader):
    """torch's reader of checkpoints, with the careful unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / METADATA
        try:
            with path.open("rb") as file:
                metadata = _Unpickler(file).load()
        except FileNotFoundError:
            raise UserError(
                f"{path}: is missing; the checkpoint was not finished, or not copied whole (the name begins "
                "with a dot)"
            ) from None
        except Exception as error:  # a damaged pickle raises nearly anything
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: can't be read as a checkpoint's metadata ({reason})") from None
        if not isinstance(metadata, Metadata) or not metadata.storage_data:
            raise UserError(f"{path}: can't be read as a checkpoint's metadata")
        return metadata


def find_checkpoint(path: Path) -> Path:
    """The folder of one iteration: `path` itself, or the one that its tracker file names.

    Raises:
        UserError: there is none, or it isn't in the torch_dist format.
    """
    folder = _tracked(path) if (path / TRACKER).is_file() else path
    if (folder / CONFIG).is_file():
        try:
            found = json.loads((folder / CONFIG).read_text())["sharded_backend"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{folder / CONFIG}: doesn't say in which format the checkpoint is") from None
        if found != FORMAT:
            raise UserError(
                f"{folder / CONFIG}: the checkpoint is in format {found!r}; only {FORMAT} is read"
            )
        return folder
    if any(folder.glob("mp_rank_*")):
        raise UserError(
            f"{folder}: a checkpoint in Megatron's old format (mp_rank_*); let Megatron save it with "
            f"--ckpt-format {FORMAT}"
        )
    if (folder / METADATA).is_file():
        raise UserError(
            f"{folder}: {CONFIG} is missing; the checkpoint was not finished, or is torch's own "
            f"(--ckpt-format torch_dcp) rather than {FORMAT}"
        )
    raise UserError(f"{path}: no Megatron checkpoint here; it has {TRACKER}, or {CONFIG} beside *.distcp")


def _tracked(path: Path) -> Path:
    try:
        word = (path / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError:
        raise may_not_be_read(path / TRACKER) from None
    if word == "release":
        return path / word
    if not word.isdecimal():
        raise UserError(f"{path / TRACKER}: {word!r} is neither an iteration's number nor 'release'")
    return path / f"iter_{int(word):07d}"
