"""Main memory: what is left, within the limits of a container or a job."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, ok, problem
from paced_megatron.doctor.limits import available_memory, gb, memory_limit, processes_here

# What a process of a job holds besides what `paced plan` counts: Python, torch, Megatron-Core, transformers.
# Measured on the CPU: 308 MB (2^20 bytes) that it shares with no other.
OF_A_PROCESS = 310 * 2**20


def check(asked: Asked) -> Finding:
    """Enough for the imports of every process; what the models take is `models`' row."""
    left, limit = available_memory(), memory_limit()
    says = f"{gb(left)} can be taken"
    says += f", of {gb(limit)} that this container or job may have" if limit is not None else ""
    processes = 1 if asked.config is None else processes_here(asked.config.world_size)
    if left < processes * OF_A_PROCESS:
        return problem(
            f"{says}; the {processes} processes of {asked.title} take {gb(processes * OF_A_PROCESS)} before "
            "they have a model",
            "end what else runs here, or ask for more memory",
        )
    return ok(says)
