"""Megatron's AdamW and learning-rate schedule, from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.optimizer import (
    ChainedOptimizer,
    DistributedOptimizer,
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from paced_megatron.config import ParallelConfig, TrainingConfig
from paced_megatron.training.student import Student


def optimizer_config(
    training: TrainingConfig, parallel: ParallelConfig, params_dtype: torch.dtype
) -> OptimizerConfig:
    """Megatron's own configuration of AdamW."""
    return OptimizerConfig(
        optimizer="adam",
        lr=training.lr,
        min_lr=training.min_lr,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_eps=training.adam_eps,
        clip_grad=training.clip_grad,
        bf16=params_dtype == torch.bfloat16,
        params_dtype=params_dtype,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_param_gather=parallel.overlap_param_gather,
    )


def make_optimizer(student: Student, config: OptimizerConfig) -> MegatronOptimizer:
    """Over the student's parameters: float32 main weights where they are bf16, gradients clipped by global
    norm."""
    return get_megatron_optimizer(
        config,
        student.wrapped,
        use_gloo_process_groups=False,  # Megatron's second set of groups, for saving; ours are passed in
        pg_collection=student.groups,
    )


def make_schedule(
    optimizer: MegatronOptimizer, training: TrainingConfig, train_iters: int
) -> OptimizerParamScheduler:
    """Learning rate by step: a linear rise over `lr_warmup_iters`, then `lr_decay_style` down to `min_lr` at
    `train_iters`."""
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=training.lr,
        min_lr=training.min_lr,
        lr_warmup_steps=training.lr_warmup_iters,
        lr_decay_steps=train_iters,
        lr_decay_style=training.lr_decay_style,
        start_wd=training.weight_decay,
        end_wd=training.weight_decay,
        wd_incr_steps=train_iters,
        wd_incr_style="constant",
    )


def optimizer_state(optimizer: MegatronOptimizer) -> list[dict[str, Any]]:
    """This rank's part of the optimizer's state, for `load_optimizer_state` at the same layout."""
    return [_state(part) for part in _parts(optimizer)]


def load_optimizer_state(optimizer: MegatronOptimizer, state: Sequence[dict[str, Any]]) -> None:
    """Put back what `optimizer_state` gave."""
    for part, saved in zip(_parts(optimizer), state, strict=True):
        if not isinstance(part, DistributedOptimizer):
            part.load_state_dict(saved)
            continue
        part.optimizer.load_state_dict(saved["optimizer"])
        for mine, theirs in zip(_main_shards(part), saved["main_shards"], strict=True):
            mine.data.copy_(theirs)


def _parts(optimizer: MegatronOptimizer) -> Sequence[MegatronOptimizer]:
    return optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _state(part: MegatronOptimizer) -> dict[str, Any]:
    """The distributed one's own `state_dict` leaves out all tensors."""
    if not isinstance(part, DistributedOptimizer):
        return part.state_dict()
    return {
        "optimizer": part.optimizer.state_dict(),
        "main_shards": [shard.detach() for shard in _main_shards(part)],
    }


def _main_shards(part: DistributedOptimizer) -> list[Tensor]:
    """This rank's float32 copies of bf16 weights. Float32 weights have none: they are saved as weights."""
    return [shard for group in part.shard_fp32_from_float16_groups for shard in group]
