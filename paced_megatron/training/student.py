"""The student: this rank's chunks of it, in Megatron's data-parallel wrappers, which own the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.folder import load_weights
from paced_megatron.models.fusions import adds_gradients, model_device
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks
from paced_megatron.models.layer_choice import LayerChoice, choose_layers


def load_chunks(
    folder: Path,
    groups: ProcessGroupCollection,
    params_dtype: torch.dtype,
    training: TrainingConfig,
    parallel: ParallelConfig,
) -> tuple[ModelShape, list[HiddenStatesModel]]:
    """This rank's parts of the student in a Hugging Face folder."""
    shape = model_shape(folder)
    chunks = build_chunks(
        shape,
        groups,
        params_dtype,
        parallel.virtual_pipeline_model_parallel_size,
        **layer_settings(params_dtype, training, parallel),
    )
    load_weights(chunks, shape, folder, groups)
    return shape, chunks


def layer_settings(
    params_dtype: torch.dtype, training: TrainingConfig, parallel: ParallelConfig
) -> dict[str, Any]:
    """Whose layers, and how they compute, beside their sizes: fields of Megatron's TransformerConfig.

    Raises:
        UserError: as `chosen_layers`.
    """
    settings: dict[str, Any] = {
        "sequence_parallel": parallel.sequence_parallel,
        "transformer_impl": chosen_layers(params_dtype, training).transformer_impl,
        "gradient_accumulation_fusion": adds_gradients(),
    }
    if training.fp8 is not None:
        settings |= {"fp8": training.fp8, "fp8_recipe": training.fp8_recipe}
    if training.recompute_granularity is not None:
        settings["recompute_granularity"] = training.recompute_granularity
    if training.recompute_granularity == "full":
        settings |= {"recompute_method": "uniform", "recompute_num_layers": training.recompute_num_layers}
    return settings


def chosen_layers(params_dtype: torch.dtype, training: TrainingConfig) -> LayerChoice:
    """Whose layers the student is built from, on the device of this process; a frozen teacher's are the same.

    Raises:
        UserError: as `choose_layers`.
    """
    return choose_layers(training.transformer_impl, model_device(), params_dtype, training.fp8)


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
    def from_folder(
        cls,
        folder: Path,
        groups: ProcessGroupCollection,
        params_dtype: torch.dtype,
        training: TrainingConfig,
        parallel: ParallelConfig,
    ) -> Student:
        """Load this rank's part from a Hugging Face folder, and wrap it."""
        shape, chunks = load_chunks(folder, groups, params_dtype, training, parallel)
        return cls.of(shape, [chunk.train() for chunk in chunks], groups, parallel)

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        chunks: Sequence[HiddenStatesModel],
        groups: ProcessGroupCollection,
        parallel: ParallelConfig,
    ) -> Student:
        """Wrap the chunks."""
        config = chunks[0].config
        wrapped = [
            DistributedDataParallel(
                config=config,
                ddp_config=DistributedDataParallelConfig(
                    grad_reduce_in_fp32=config.params_dtype != torch.float64,
                    use_distributed_optimizer=parallel.use_distributed_optimizer,
                    overlap_grad_reduce=parallel.overlap_grad_reduce,
                    overlap_param_gather=parallel.overlap_param_gather,
                    bucket_size=parallel.ddp_bucket_size,
                ),
                module=chunk,
                # With several chunks, those after the first have one bucket each, as in Megatron-LM.
                disable_bucketing=number > 0,
                pg_collection=groups,
            )
            for number, chunk in enumerate(chunks)
        ]
        # Megatron's schedule calls this at the end. The sum is already divided, so its own count of tokens is
        # left out.
        config.finalize_model_grads_func = _finalize
        if parallel.overlap_grad_reduce:  # a bucket goes out with the last micro-batch, not with each
            no_sync = [chunk.no_sync for chunk in wrapped]
            config.no_sync_func = no_sync if len(wrapped) > 1 else no_sync[0]
        return cls(shape, list(chunks), wrapped, groups)

    @property
    def device(self) -> torch.device:
        return next(self.chunks[0].parameters()).device

    @property
    def sequence_parallel(self) -> bool:
        return self.chunks[0].config.sequence_parallel

    def settle(self) -> None:
        """Have all of the last step's weights on every rank, before somebody other than a step reads them.

        Under overlap_param_gather they are on their way, until the next step asks for them.
        """
        for chunk in self.wrapped:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    @contextmanager
    def finalizing(self, around: Callable[[Callable[..., None]], Callable[..., None]]) -> Iterator[None]:
        """Within it the sum of the gradients over the copies, Megatron's last act of a schedule, goes through
        `around`."""
        config = self.chunks[0].config
        config.finalize_model_grads_func = around(_finalize)
        try:
            yield
        finally:
            config.finalize_model_grads_func = _finalize

    def zero_grad(self) -> None:
        """Empty the gradient buffers."""
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()


def _finalize(model: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
    finalize_model_grads(model, None, **groups)
