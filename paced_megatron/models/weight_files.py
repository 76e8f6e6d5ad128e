"""The tensors of a Hugging Face folder. Knows safetensors, not Megatron."""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paced_megatron.errors import UserError, may_not_be_read
from paced_megatron.models.families import ModelShape
from paced_megatron.models.mapping import hugging_face_shapes

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# What transformers' and DeepSpeed's trainers put beside the weights.
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class FileTensor:
    """A tensor that is still in its file; `tensor[a:b]` and `tensor[:, a:b]` read that part of it.

    Attributes:
        shape: read from the file's header.
        dtype: safetensors' name of it, e.g. "BF16".
    """

    shape: tuple[int, ...]
    dtype: str
    _slice: Any

    def __getitem__(self, index: Any) -> Tensor:
        return self._slice[index]


def indexed(index: Path) -> dict[str, str]:
    """By tensor, the name of the file beside the index that it says has it.

    Raises:
        UserError: it is no index, or leads elsewhere than to safetensors beside it.
    """
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        named = {str(name): str(file) for name, file in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: not an index of safetensors (no weight_map)") from None
    for name, file in named.items():
        if not file.endswith(".safetensors") or Path(file).name != file:
            raise UserError(
                f"{index}: tensor {name} is said to be in {file!r}, which is not a .safetensors file "
                "beside the index (pickled weights are not read)"
            )
    return named


class WeightFiles:
    """A folder's tensors by name, from one file or from shards with an index. Each file is opened once, when
    first asked, and stays open (mapped, not read) as long as this object lives.

    Raises:
        UserError: there are no safetensors here, or it isn't clear which.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open_files: dict[Path, Any] = {}
        self._file_of = self._index()

    def _index(self) -> dict[str, Path]:
        index, single = self.folder / INDEX, self.folder / SINGLE
        if index.is_file() and single.is_file():
            raise UserError(
                f"{self.folder}: both {SINGLE} and {INDEX} are here; remove the one that is stale"
            )
        if single.is_file():
            return dict.fromkeys(self._open(single).keys(), single)
        if index.is_file():
            return {name: self.folder / file for name, file in indexed(index).items()}
        pickles = sorted(path.name for path in self.folder.glob("*.bin")) + sorted(
            path.name for path in self.folder.glob("*.pt*")
        )
        pickles = [name for name in pickles if name not in _NO_WEIGHTS and not name.startswith("rng_state")]
        if pickles:
            raise UserError(
                f"{self.folder}: {pickles[0]} is a pickle, and pickled weights are not read, since that runs "
                "code from the file; save the model as safetensors"
            )
        raise UserError(f"{self.folder}: neither {SINGLE} nor {INDEX} is here")

    def _open(self, path: Path) -> Any:
        if path not in self._open_files:
            try:
                self._open_files[path] = safe_open(path, framework="pt")
            except FileNotFoundError:  # safetensors says so of one that may not be read, too
                if path.exists():
                    raise may_not_be_read(path) from None
                raise UserError(f"{path}: missing, though {INDEX} names it") from None
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path}: can't be read as safetensors ({error}); truncated, or another kind of file"
                ) from None
        return self._open_files[path]

    def names(self) -> set[str]:
        return set(self._file_of)

    def check_readable(self) -> None:
        """Open every file, so that a missing or truncated shard is known before anything is loaded, and
        compare what is in it with the index: transformers and SGLang take all that a file holds."""
        for path in sorted(set(self._file_of.values())):
            held = set(self._open(path).keys())
            absent = {name for name, holder in self._file_of.items() if holder == path} - held
            if absent:
                raise UserError(
                    f"{path}: tensor {min(absent)} is missing, though {INDEX} says that it is here"
                )
            twice = {name for name in held if self._file_of.get(name, path) != path}
            if twice:
                raise UserError(
                    f"{path}: tensor {min(twice)} is here too, though {INDEX} says that it is in "
                    f"{self._file_of[min(twice)].name}; export the model anew"
                )

    def check_alone(self) -> None:
        """Whether there are no safetensors beside these. SGLang reads all that a folder without an index has.

        Raises:
            UserError: there is another file, by name.
        """
        others = set(self.folder.glob("*.safetensors")) - set(self._file_of.values())
        if others:
            raise UserError(
                f"{min(others)}: not one of the model's files, but a server would read it too; remove it"
            )

    def _holding(self, name: str) -> Any:
        """The open file that has the tensor; UserError where none has."""
        if name not in self._file_of:
            raise UserError(f"{self.folder}: tensor {name} is missing")
        return self._open(self._file_of[name])

    def part_of(self, name: str) -> FileTensor:
        """The tensor, to be cut before it is read.

        Raises:
            UserError: the folder has no tensor of this name.
        """
        inside = self._holding(name).get_slice(name)
        return FileTensor(tuple(inside.get_shape()), inside.get_dtype(), inside)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, on the CPU, in the folder's dtype. It is the mapped file itself, not a copy: what
        is written to it stays in memory.

        Raises:
            UserError: the folder has no tensor of this name.
        """
        return self._holding(name).get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype, from the file's header."""
        return DTYPES[self.part_of(name).dtype]


def _is_superfluous(name: str, shape: ModelShape) -> bool:
    """A tensor that some folders hold and transformers doesn't read: a tied head written a second time, and
    the rotary embedding's frequencies, which follow from config.json."""
    return (shape.tied and name == "lm_head.weight") or name.endswith(".rotary_emb.inv_freq")


# What the names of tensors tell of a model that is none of ours, by a part of them.
_TELLING = {
    **dict.fromkeys((".lora_A.", ".lora_B.", ".base_layer."), "an adapter's; merge it into its base first"),
    **dict.fromkeys(
        (".qweight", ".qzeros", ".absmax", ".quant_state."), "quantised; bring unquantised weights"
    ),
    **dict.fromkeys(("_scale", ".scales", "_scale_inv"), "quantised; bring unquantised weights"),
    ".experts.": "those of a mixture of experts, which is not supported",
}


def _refuse_others(folder: Path, names: Set[str]) -> None:
    """Raise UserError where names that the map lacks tell why."""
    for name in sorted(names):
        for part, why in _TELLING.items():
            if name.endswith(part) or (part.endswith(".") and part in name):
                raise UserError(f"{folder}: tensor {name}: the weights are {why}")


def _check_tied_head(files: WeightFiles) -> None:
    """transformers 5 doesn't tie a head that is stored and is another one, whatever config.json says."""
    if "lm_head.weight" not in files.names():
        return
    head, embedding = files["lm_head.weight"], files["model.embed_tokens.weight"]
    if head.dtype not in DTYPES.values() or not torch.equal(head, embedding):
        raise UserError(
            f"{files.folder}: tensor lm_head.weight is not the embedding, though config.json says "
            "tie_word_embeddings=true; set it to false, or take the tensor out if the embedding is the head"
        )


def check_weights(folder: Path, shape: ModelShape) -> None:
    """Reads headers only, and of a tied model a head that is stored nevertheless.

    Raises:
        UserError: the folder's tensors are not exactly those of the map, one has another shape or isn't made
            of floating-point numbers, a tied head is not the embedding, or a file can't be read.
    """
    files = WeightFiles(folder)
    files.check_readable()
    wanted = hugging_face_shapes(shape)
    found = {name for name in files.names() if name in wanted or not _is_superfluous(name, shape)}
    _refuse_others(folder, found - wanted.keys())
    for problem, names in (
        ("is missing", wanted.keys() - found),
        ("has no place in the map", found - wanted.keys()),
    ):
        if names:
            rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{folder}: tensor {min(names)} {problem}{rest}")
    for name, size in wanted.items():
        tensor = files.part_of(name)
        if tensor.shape != size:
            raise UserError(
                f"{folder}: tensor {name} has shape {list(tensor.shape)}, but config.json says {list(size)}"
            )
        if tensor.dtype not in DTYPES:
            raise UserError(f"{folder}: tensor {name} is stored as {tensor.dtype}; bring unquantised weights")
    if shape.tied:
        _check_tied_head(files)
