"""Cores that may be used, and the threads that will want them."""

from __future__ import annotations

import os

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.limits import processes_here, usable_cores


def check(asked: Asked) -> Finding:
    """Affinity and control groups count, not what the machine has."""
    cores, machine = usable_cores(), os.cpu_count() or 1
    says = (
        f"{cores:g} of the machine's {machine} cores may be used" if cores < machine else f"{machine} cores"
    )
    processes = 1 if asked.config is None else processes_here(asked.config.world_size)
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(told) if told.isdigit() else 0
    if processes * threads > cores:
        return note(
            f"{says}, for {processes} processes of {threads} threads (OMP_NUM_THREADS): slow",
            f"OMP_NUM_THREADS={max(int(cores // processes), 1)}",
        )
    return ok(says)
