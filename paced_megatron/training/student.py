"""The student: this rank's chunks of it, in Megatron's data-parallel wrappers, which own the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel


@dataclass(frozen=True)
class Student:
    """Attributes:
    shape: what its config.json says.
    chunks: this rank's parts of the model: several with virtual pipeline stages.
    wrapped: the same chunks in Megatron's wrappers; each parameter's gradient is its `main_grad`, float32 or
        wider.
    groups: its process groups.
    """

    shape: ModelShape
    chunks: list[HiddenStatesModel]
    wrapped: list[DistributedDataParallel]
    groups: ProcessGroupCollection

    @classmethod
    def of(
        cls, shape: ModelShape, chunks: Sequence[HiddenStatesModel], groups: ProcessGroupCollection
    ) -> Student:
        """Wrap the chunks."""
        config = chunks[0].config
        main_dtype = torch.promote_types(config.params_dtype, torch.float32)
        wrapped = [
            DistributedDataParallel(
                config=config,
                ddp_config=DistributedDataParallelConfig(
                    grad_reduce_in_fp32=main_dtype == torch.float32, overlap_grad_reduce=False
                ),
                module=chunk,
                pg_collection=groups,
            )
            for chunk in chunks
        ]
        # Megatron's schedule calls this at the end. The sum is already divided, so its own count of tokens is
        # left out.
        config.finalize_model_grads_func = _finalize
        return cls(shape, list(chunks), wrapped, groups)

    @property
    def head(self) -> Tensor | None:
        """This rank's rows of the head; None where another pipeline stage has it."""
        return self.chunks[-1].head if self.chunks[-1].post_process else None

    @property
    def device(self) -> torch.device:
        return next(self.chunks[0].parameters()).device

    def zero_grad(self) -> None:
        """Empty the gradient buffers."""
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()


def _finalize(model: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
    finalize_model_grads(model, None, **groups)
