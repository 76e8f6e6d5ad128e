"""Megatron's AdamW and learning-rate schedule, from the configuration."""

from __future__ import annotations

import torch
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from paced_megatron.config import TrainingConfig
from paced_megatron.training.student import Student


def make_optimizer(student: Student, training: TrainingConfig) -> MegatronOptimizer:
    """AdamW over the student's parameters, float32 main weights where they are bf16, gradients clipped by
    global norm."""
    params_dtype = student.chunks[0].config.params_dtype
    return get_megatron_optimizer(
        OptimizerConfig(
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
        ),
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
