"""The teacher's hidden states on disk, where text and teacher are fixed: made in the first epoch, read from
then on.

`stage-N/teacher/` holds a safetensors file a text: `hidden_states` [response tokens, H_t]. Its name and its
metadata are a hash of all that the numbers follow from, and its metadata a hash of the numbers, so that a
file that is torn, or another teacher's, is noticed and made anew.

The numbers are the first epoch's to the last bit. A text that is padded to another length in a later
micro-batch would there have come out with another rounding.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.runtime.files import write_atomically
from paced_megatron.training.examples import Example

SUFFIX = ".safetensors"
GB = 1e9


@dataclass(frozen=True)
class TeacherCache:
    """One stage's cache. Only ranks that hold a part of the student's head read it, and of those that share
    a head one writes.

    Attributes:
        folder: `StageFolder.teacher`.
        identity: of the teacher's weights, by `models.identity`.
        hidden_size: H_t.
        dtype: of the hidden states.
        device: where they are read to.
    """

    folder: Path
    identity: str
    hidden_size: int
    dtype: torch.dtype
    device: torch.device

    def key(self, example: Example) -> str:
        """The hash of all that a text's hidden states follow from."""
        parts = [self.identity, str(self.dtype), example.teacher_prompt, example.response]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def path(self, example: Example) -> Path:
        return self.folder / (self.key(example) + SUFFIX)

    def nbytes(self, examples: Iterable[Example]) -> int:
        """What the numbers of these texts take on disk, each text once; a file's header, about 300 bytes, not
        counted."""
        tokens = {self.key(example): len(example.response) for example in examples}
        return sum(tokens.values()) * self.hidden_size * self.dtype.itemsize

    def prepare(self, examples: Sequence[Example]) -> tuple[int, int]:
        """Make the folder, and remove from it what belongs to no text of this stage: (bytes of all texts,
        bytes of those that are not there yet). On one rank.

        Raises:
            UserError: the disk has less room than is still to be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {self.path(example): example for example in examples}
        for path in self.folder.glob("*" + SUFFIX):
            if path not in wanted:
                path.unlink()
        absent = [example for path, example in wanted.items() if not path.exists()]
        missing, free = self.nbytes(absent), shutil.disk_usage(self.folder).free
        if missing > free:
            raise UserError(
                f"{self.folder}: the teacher's hidden states take {missing / GB:.1f} GB more, and the disk "
                f"has {free / GB:.1f} GB left; make room, or set teacher.cache: false"
            )
        return self.nbytes(examples), missing

    def read(self, wanted: Iterable[tuple[int, Sequence[Example]]]) -> dict[int, Tensor]:
        """By index of the micro-batch, [M, H_t] in the order of its examples; without those of which a text
        is not there, or not what it should be."""
        found = {}
        for index, examples in wanted:
            parts = [self._read(example) for example in examples]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                empty = torch.empty(0, self.hidden_size, dtype=self.dtype)
                found[index] = torch.cat([empty, *whole]).to(self.device)
        return found

    def write(self, step: Sequence[Sequence[Example]], made: Mapping[int, Tensor]) -> None:
        """Keep the texts of these micro-batches which are not there yet.

        A text that stands twice in a step (two epochs meet in it) is kept as its first place made it: which
        rank comes last must not decide on its last bits.

        Args:
            step: the examples of every micro-batch of the step, of all replicas.
            made: by index in `step`, [M, H_t].
        """
        first: dict[str, int] = {}
        for index, examples in enumerate(step):
            for example in examples:
                first.setdefault(self.key(example), index)
        for index, hidden in made.items():
            parts = hidden.cpu().split([len(example.response) for example in step[index]])
            for example, part in zip(step[index], parts, strict=True):
                if first[self.key(example)] == index and self._read(example) is None:
                    self._write(example, part.contiguous())

    def _read(self, example: Example) -> Tensor | None:
        try:
            with safe_open(self.path(example), framework="pt") as file:
                metadata, states = file.metadata(), file.get_tensor("hidden_states")
        except (OSError, SafetensorError):
            return None
        shape = (len(example.response), self.hidden_size)
        if tuple(states.shape) != shape or states.dtype != self.dtype:
            return None
        expected = {"text": self.key(example), "sha256": _digest(states)}
        return states if metadata == expected else None

    def _write(self, example: Example, states: Tensor) -> None:
        metadata = {"text": self.key(example), "sha256": _digest(states)}
        write_atomically(self.path(example), save({"hidden_states": states}, metadata))


def _digest(states: Tensor) -> str:
    return hashlib.sha256(states.view(torch.uint8).flatten().numpy().data).hexdigest()
