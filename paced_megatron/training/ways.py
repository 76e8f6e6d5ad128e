"""Which way a stage's layers and its loss take on this machine: a line of each for the log, and an error
where one was asked for that cannot be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paced_megatron.config import Config
from paced_megatron.divergence import loss_path
from paced_megatron.errors import UserError
from paced_megatron.training.student import chosen_layers
from paced_megatron.training.trainer import DTYPES


@dataclass(frozen=True)
class Ways:
    """Attributes:
    lines: for the log.
    warnings: of a slower way that nobody asked for.
    """

    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def ways_of(config: Config, number: int, device: torch.device) -> Ways:
    """Of stage `number` (from 1), with models on `device`.

    Raises:
        UserError: the layers, fp8 or the loss's kernels that the configuration names cannot be had here.
    """
    training, stage = config.training, config.stages[number - 1]
    dtype = DTYPES[training.params_dtype]
    layers = chosen_layers(dtype, training)
    try:
        loss = loss_path(
            device,
            dtype,
            teacher_dtype=torch.promote_types(dtype, torch.float32) if stage.teacher == "ema" else dtype,
            divergence=stage.divergence,
            kernels=training.loss_kernels,
            ranks=config.parallel.tensor_model_parallel_size,
        )
    except ValueError as error:
        what = str(error).removeprefix("kernels: ")
        raise UserError(f"training.loss_kernels={training.loss_kernels}: {what}") from None
    return Ways((layers.line, str(loss)), (layers.warning,) if layers.warning else ())
