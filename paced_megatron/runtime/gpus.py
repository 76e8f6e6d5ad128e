"""Whether a host has a GPU for each process. Without Megatron: asked before a job is started."""

from __future__ import annotations

import torch

from paced_megatron.errors import UserError


def check_gpus(processes: int) -> None:
    """That a job of so many processes on this host finds a GPU for each, where the host has any.

    Raises:
        UserError: it has some, and too few.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UserError(
            f"{processes} processes take a GPU each, and torch sees {torch.cuda.device_count()} here: choose "
            "a layout with fewer (`paced plan`), start the job on more hosts, or set CUDA_VISIBLE_DEVICES= "
            "to use the CPU"
        )
