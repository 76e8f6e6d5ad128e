"""This host's GPUs: whether there is one for each process, why there is none, what an old one can't do, and
what one has.
Without Megatron: asked before a job is started."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from paced_megatron.errors import UserError

# Compute capability from which a GPU has bfloat16 in its tensor cores (CUDA C++ Programming Guide, features
# by compute capability), and which Triton and flash attention ask for (their READMEs).
AMPERE = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """A rank's, before anything is loaded; `total` and `free` in bytes."""

    name: str
    total: float
    free: float
    capability: tuple[int, int] = (9, 0)


def gpu_at(device: torch.device | int) -> Gpu:
    """This process's GPU as it is now. It makes CUDA's context on it."""
    free, total = torch.cuda.mem_get_info(device)
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Gpu(name, float(total), float(free), capability)


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


def why_none() -> str:
    """What keeps torch from a GPU here, where `torch.cuda.is_available()` is false: its build, the
    environment, or what the driver says."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for the CPU"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.split(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides them all"
    try:
        torch.cuda.init()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # the first sentence names it: no driver, one that is too old
        said = str(error).strip().split(". ")[0].rstrip(".")
        return f"torch, built for CUDA {torch.version.cuda}, says: {said}"
    return f"torch, built for CUDA {torch.version.cuda}, sees none"


def too_old_for(params_dtype: str, capability: tuple[int, int]) -> str:
    """What a GPU of this compute capability costs a run; empty where it has all that is used."""
    if capability >= AMPERE:
        return ""
    slow = (
        f"compute capability {capability[0]}.{capability[1]}, below 8.0: no Triton, so that the loss goes "
        "over each chunk of logits several times, and no flash attention"
    )
    if params_dtype == "bfloat16":
        return (
            f"{slow}; bfloat16 is emulated there, without tensor cores: slow; take a newer GPU (A100, RTX "
            "30, or later), or training.params_dtype=float32"
        )
    return f"{slow}; a newer GPU (A100, RTX 30, or later) is faster"
