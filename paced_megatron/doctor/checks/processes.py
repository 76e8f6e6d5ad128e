"""The run's processes against the GPUs or cores that they find."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.limits import nodes_of_job, usable_cores


def check(asked: Asked) -> Finding:
    """Each process takes a GPU where there are any; where there are none, a core."""
    if asked.config is None:
        return ok("nothing to run was named: paced doctor CONFIG compares a run with this machine")
    import torch

    wanted = asked.config.world_size
    gpus = torch.cuda.device_count() if asked.uses_gpus and torch.cuda.is_available() else 0
    nodes = nodes_of_job()
    if gpus:
        has = f"{asked.title} has {_count(wanted)}, and each takes a GPU; there are {gpus} here"
        has += f" on each of {nodes} nodes" if nodes > 1 else ""
        if gpus * nodes < wanted:
            return problem(
                has,
                "a layout with fewer processes (paced plan CONFIG), more nodes, or the CPU instead: set "
                "CUDA_VISIBLE_DEVICES to nothing",
            )
        return ok(has)
    cores = usable_cores() * nodes
    has = f"{asked.title} has {_count(wanted)}, on {cores:g} cores"
    return note(f"{has}: slow", "a layout with fewer processes") if wanted > cores else ok(has)


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
