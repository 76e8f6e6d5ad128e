"""The tensors of a Hugging Face folder. Knows safetensors, not Megatron."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape
from paced_megatron.models.mapping import hugging_face_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class WeightFiles:
    """A folder's tensors by name, read one at a time from one file or from shards with an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = self._index()

    def _index(self) -> dict[str, Path]:
        if (self.folder / INDEX).is_file():
            try:
                named = json.loads((self.folder / INDEX).read_text())["weight_map"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(
                    f"{self.folder / INDEX}: not an index of safetensors (no weight_map)"
                ) from None
            return {name: self.folder / file for name, file in named.items()}
        single = self.folder / SINGLE
        if not single.is_file():
            raise UserError(
                f"{self.folder}: neither {SINGLE} nor {INDEX} here (pickled weights are not read)"
            )
        with self._open(single) as file:
            return dict.fromkeys(file.keys(), single)

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: can't be read as safetensors ({error})") from None

    def names(self) -> set[str]:
        return set(self._file_of)

    def check_readable(self) -> None:
        """Open every file once, so that a missing or truncated shard is known before anything is loaded."""
        for path in sorted(set(self._file_of.values())):
            with self._open(path) as file:
                absent = {name for name, holder in self._file_of.items() if holder == path} - set(file.keys())
            if absent:
                raise UserError(
                    f"{path}: tensor {min(absent)} is missing, though {INDEX} says that it is here"
                )

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, on the CPU, in the folder's dtype.

        Raises:
            UserError: the folder has no tensor of this name.
        """
        if name not in self._file_of:
            raise UserError(f"{self.folder}: tensor {name} is missing")
        with self._open(self._file_of[name]) as file:
            return file.get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's dtype, for the reading of one row."""
        with self._open(self._file_of[name]) as file:
            return file.get_slice(name)[:1].dtype


def check_weights(folder: Path, shape: ModelShape) -> None:
    """Reads headers only.

    Raises:
        UserError: the folder's tensors are not exactly those of the map, or a file can't be read.
    """
    files = WeightFiles(folder)
    files.check_readable()
    wanted, found = hugging_face_names(shape), files.names()
    if shape.tied:
        found -= {"lm_head.weight"}  # some folders write the tied head a second time
    for problem, names in (("is missing", wanted - found), ("has no place in the map", found - wanted)):
        if names:
            rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{folder}: tensor {min(names)} {problem}{rest}")
