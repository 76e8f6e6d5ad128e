"""Megatron's AdamW and learning-rate schedule, from the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.optimizer import (
    ChainedOptimizer,
    DistributedOptimizer,
    Float16OptimizerWithFloat16Params,
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor
from torch.nn import Parameter

from paced_megatron.config import Budget, ParallelConfig, TrainingConfig
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
    optimizer: MegatronOptimizer, training: TrainingConfig, budget: Budget
) -> OptimizerParamScheduler:
    """Learning rate by what was spent of the budget: a linear rise over `lr_warmup_iters` or
    `lr_warmup_fraction`, then `lr_decay_style` down to `min_lr` where the budget ends.

    Megatron's schedule is linear in its step, so that a "step" may as well be a token or a second: its
    num_steps counts the budget's unit.
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=training.lr,
        min_lr=training.min_lr,
        lr_warmup_steps=training.lr_warmup_iters or training.lr_warmup_fraction * budget.amount,
        lr_decay_steps=budget.amount,
        lr_decay_style=training.lr_decay_style,
        start_wd=training.weight_decay,
        end_wd=training.weight_decay,
        wd_incr_steps=budget.amount,
        wd_incr_style="constant",
    )


@dataclass(frozen=True)
class OwnedState:
    """What an optimizer keeps for (a part of) one parameter on this rank.

    Attributes:
        parameter: the model's.
        start: the number, in the flattened parameter, of the element with which this rank's part begins.
        is_shared_out: the data-parallel ranks have different parts, not copies.
        tensors: Adam's moments, and the float32 main weight of a bf16 parameter; all of one length.
    """

    parameter: Parameter
    start: int
    is_shared_out: bool
    tensors: dict[str, Tensor]


def owned_states(optimizer: MegatronOptimizer) -> Iterator[OwnedState]:
    """This rank's state, a parameter at a time, as live tensors; made (zeros) where no step was taken yet."""
    for part in _parts(optimizer):
        state = part.optimizer.state
        for parameter, main, start in _main_weights(part):
            if not state[main]:
                state[main] |= {name: torch.zeros_like(main) for name in _MOMENTS}
                if isinstance(part.optimizer, torch.optim.Adam):
                    state[main]["step"] = torch.tensor(0.0)
            tensors = {name: state[main][name] for name in _MOMENTS}
            if main.dtype != parameter.dtype:
                tensors["fp32_param"] = main
            yield OwnedState(parameter, start, isinstance(part, DistributedOptimizer), tensors)


def steps_taken(optimizer: MegatronOptimizer) -> int:
    """How many steps Adam's moments have seen. One number for all parameters: each step moves them all."""
    for part in _parts(optimizer):
        for state in part.optimizer.state.values():
            if "step" in state:
                return int(state["step"])
        for group in part.optimizer.param_groups:  # where Transformer Engine's or apex's Adam keeps it
            if "step" in group:
                return int(group["step"])
    return 0


def set_steps_taken(optimizer: MegatronOptimizer, steps: int) -> None:
    """Tell Adam so; its bias correction depends on it."""
    for part in _parts(optimizer):
        if not isinstance(part.optimizer, torch.optim.Adam):
            for group in part.optimizer.param_groups:
                group["step"] = steps
            continue
        for state in part.optimizer.state.values():
            state["step"] = torch.tensor(float(steps))


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _parts(optimizer: MegatronOptimizer) -> Sequence[MegatronOptimizer]:
    return optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _main_weights(part: MegatronOptimizer) -> Iterator[tuple[Parameter, Tensor, int]]:
    """(model's parameter, what the optimizer works on, where in the flattened parameter that begins)."""
    groups = part.optimizer.param_groups
    if isinstance(part, DistributedOptimizer):
        for parameter, (group, order) in part.model_param_group_index_map.items():
            start = part._get_model_param_range_map(parameter)["param"].start
            yield parameter, groups[group]["params"][order], start
        return
    mains: dict[Tensor, Parameter] = {}
    if isinstance(part, Float16OptimizerWithFloat16Params):
        for models, copies in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
            mains |= dict(zip(copies, models, strict=True))
    for group in groups:
        for main in group["params"]:
            yield mains.get(main, main), main, 0
