"""What a checkpoint says beside its tensors: state.json, and each rank's random states.

state.json    format, iteration (optimizer steps of the stage: with the seed the place in the data), stage,
              optimizer_steps, schedule, spent (of the stage's budget: training/budget.py), layout,
              config_sha256 and pass_rates_sha256 (of the run's config.yaml and the stage's
              pass_rates.jsonl, with the weights in force), versions
rng_000.pt    of rank 0: states of Python, numpy, torch, CUDA, and Megatron's tracker
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from paced_megatron.errors import UserError
from paced_megatron.models.distributed_checkpoint import saved_bytes
from paced_megatron.report.environment import environment
from paced_megatron.run_folder import RunFolder, StageFolder
from paced_megatron.runtime.files import sha256
from paced_megatron.training.budget import Spent
from paced_megatron.training.optimizer import set_steps_taken, steps_taken
from paced_megatron.training.trainer import Trainer

STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True)
class InForce:
    """What a stage's training goes by, as hashes (SHA-256; None where the file isn't there)."""

    stage: int
    config_sha256: str | None
    pass_rates_sha256: str | None

    @classmethod
    def of(cls, folder: StageFolder) -> InForce:
        """Of a stage in a run's folder."""
        config = RunFolder(folder.path.parent).config
        found = (sha256(path) if path.exists() else None for path in (config, folder.pass_rates))
        return cls(folder.number, *found)


def layout_of(trainer: Trainer) -> dict[str, Any]:
    """How the student is cut, under the configuration's keys."""
    groups, chunks = trainer.world.groups, len(trainer.student.chunks)
    return {
        "tensor_model_parallel_size": groups.tp.size(),
        "pipeline_model_parallel_size": groups.pp.size(),
        "virtual_pipeline_model_parallel_size": chunks if chunks > 1 else None,
        "data_parallel_size": groups.dp.size(),
        "use_distributed_optimizer": trainer.student.wrapped[0].ddp_config.use_distributed_optimizer,
    }


def shown_layout(layout: dict[str, Any]) -> str:
    """Such as "TP 2, PP 1, DP 1"."""
    virtual = layout["virtual_pipeline_model_parallel_size"]
    return (
        f"TP {layout['tensor_model_parallel_size']}, PP {layout['pipeline_model_parallel_size']}, "
        + (f"VPP {virtual}, " if virtual else "")
        + f"DP {layout['data_parallel_size']}"
        + (" with the distributed optimizer" if layout["use_distributed_optimizer"] else "")
    )


def write_state(folder: Path, iteration: int, trainer: Trainer, in_force: InForce | None) -> None:
    """Write state.json."""
    content = {
        "format": FORMAT,
        "iteration": iteration,
        "optimizer_steps": steps_taken(trainer.optimizer),
        "schedule": trainer.schedule.state_dict(),
        "spent": asdict(trainer.meter.spent),
        "layout": layout_of(trainer),
        **(vars(in_force) if in_force else {}),
        "versions": environment(),
    }
    (folder / STATE).write_text(json.dumps(content, indent=1) + "\n")


def read_state(folder: Path) -> dict[str, Any]:
    """Read state.json. Raises UserError where this version can't go by it."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    if state["format"] != FORMAT:
        raise UserError(
            f"{folder / STATE}: format {state['format']}, and this version of paced_megatron reads format "
            f"{FORMAT}; go on with the version that wrote it ({state['versions']['paced_megatron']})"
        )
    return state


def check_in_force(folder: Path, state: dict[str, Any], in_force: InForce) -> None:
    """Raise UserError where the weights in force are no longer those that the checkpoint was trained with."""
    if state.get("pass_rates_sha256") != in_force.pass_rates_sha256:
        raise UserError(
            f"{folder.parent.parent / 'pass_rates.jsonl'}: not the file that {folder.name} was trained with "
            f"(its SHA-256 is in {folder / STATE}); put it back, or remove {folder.parent} (and rollouts/ "
            "and evaluation/ beside it) to train the stage from its beginning"
        )


def load_small_state(state: dict[str, Any], trainer: Trainer) -> None:
    """Put schedule, step count and what was spent back; the optimizer's tensors must be there."""
    set_steps_taken(trainer.optimizer, state["optimizer_steps"])
    trainer.schedule.num_steps = 0  # Megatron adds what it loads
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.meter.spent = spent_in(state)


def spent_in(state: dict[str, Any]) -> Spent:
    """What the stage had spent. An older checkpoint, of a time when all budgets were in steps, says only
    how many these were."""
    return Spent(**state["spent"]) if "spent" in state else Spent(steps=state["iteration"])


def rng_file(folder: Path, rank: int) -> Path:
    return folder / f"rng_{rank:03d}.pt"


def write_rng(path: Path) -> None:
    """This process's random states; on disk when it returns."""
    name, keys, *rest = np.random.get_state()
    content = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "megatron": get_cuda_rng_tracker().get_states(),
    }
    with path.open("wb") as file:
        file.write(saved_bytes(content))
        file.flush()
        os.fsync(file.fileno())


def load_rng(path: Path) -> str | None:
    """Put them back.

    A GPU's states and the CPU's have nothing in common, and neither takes the other's ("RNG state is wrong
    size"): where the file is of the other device, the host's are put back, and the device's and those of
    Megatron's tracker, which it switches to, stay as this process has seeded them.

    Returns:
        From which device to which, where it is another one.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    version, internal, gauss = content["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = content["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(content["torch"])
    gpus, on_gpu = content["cuda"], torch.cuda.is_available()
    if (gpus is not None) != on_gpu:
        before, now = ("the CPU", "a GPU") if on_gpu else ("a GPU", "the CPU")
        return f"on {before}; training goes on from it on {now}"
    if on_gpu:
        torch.cuda.set_rng_state(gpus)
    get_cuda_rng_tracker().set_states(content["megatron"])
    return None
