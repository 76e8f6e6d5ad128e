"""What a process finds in its environment that somebody else has started as one of a job: torchrun,
`launch.py`, Slurm, whose tasks have names of their own for it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from paced_megatron.errors import UserError


def already_launched() -> bool:
    """Whether this process is a rank of a job that somebody (torchrun, `launch`, a cluster) has started."""
    return "RANK" in os.environ


def slurm_task(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK and WORLD_SIZE of a task that `srun` has started as one of several; empty elsewhere:
    in a job's script, in a step of one task, where RANK is set already.

    Where Slurm shows a task its own GPUs alone, LOCAL_RANK counts among these.

    Raises:
        UserError: the step does not say where its ranks meet (MASTER_ADDR, MASTER_PORT).
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in environment or "SLURM_PROCID" not in environment or tasks == "1":
        return {}
    rank, local = environment["SLURM_PROCID"], int(environment.get("SLURM_LOCALID", "0"))
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]:
        raise UserError(
            f"this is task {rank} of a Slurm step of {tasks}, and {' and '.join(missing)} is not set: its "
            "ranks can't meet; start it with slurm/train.sbatch, or export both"
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    gpus = len(visible.split(",")) if visible else local + 1
    return {"RANK": rank, "LOCAL_RANK": str(local % gpus), "WORLD_SIZE": tasks}
