"""The teacher: its final hidden states for a step, and its head. No wrapper, gradient buffer or optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.folder import load_weights
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks
from paced_megatron.training.batches import MicroBatch
from paced_megatron.training.forward import final_hidden_states


@dataclass(frozen=True)
class Teacher:
    """This rank's part of it, laid out as the student (without virtual pipeline stages).

    Attributes:
        shape: what its config.json says.
        model: frozen.
        groups: its process groups.
    """

    shape: ModelShape
    model: HiddenStatesModel
    groups: ProcessGroupCollection

    @classmethod
    def from_folder(cls, folder: Path, groups: ProcessGroupCollection, dtype: torch.dtype) -> Teacher:
        """Load it from a Hugging Face folder; `groups` are the student's."""
        shape = model_shape(folder)
        (model,) = build_chunks(shape, groups, dtype)
        load_weights(model, shape, folder, groups)
        return cls(shape, model.requires_grad_(False).eval(), groups)

    @property
    def head(self) -> Tensor | None:
        """Its head's rows of this rank's part of the vocabulary, cut at the student's boundaries; None where
        the student's head is not."""
        return self.model.head if self.model.post_process else None

    def hidden_states(self, batches: Sequence[Sequence[MicroBatch]]) -> list[Tensor | None]:
        """The final hidden states [M, H_t] at the response's positions, for each micro-batch of this rank's
        own replica, on the ranks that hold the student's head; None elsewhere.

        Args:
            batches: every student replica's micro-batches, the same on all ranks.
        """
        mine = batches[self.groups.dp.rank()]
        device = next(self.model.parameters()).device
        rows = [micro_batch.teacher for micro_batch in mine]
        return final_hidden_states([self.model], rows, self.groups, device)
