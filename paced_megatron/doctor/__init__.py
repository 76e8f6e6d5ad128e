"""What works on this machine and what doesn't, in words: `paced doctor`.

A check is a plain function in a small file of `checks/`: it is told what is to be run (`Asked`) and returns a
`Finding`. CHECKS is the list, in the order in which they are shown; another room adds a row there. What a
check needs is imported inside of it: an environment in which torch is missing or broken is what this room is
for, and `--help` needn't wait. Nothing is repaired here, and nothing written. Open `check.py` first.
"""

from __future__ import annotations

from collections.abc import Callable

from paced_megatron.doctor.check import Asked, Check, Finding, Status, run_check
from paced_megatron.doctor.checks import (
    apex,
    communication,
    cores,
    disk,
    extras,
    gpu,
    gpu_memory,
    gpus_together,
    megatron,
    memory,
    models,
    network,
    packages,
    processes,
    python,
    server,
    sglang,
    shared_memory,
    slurm,
    torch_build,
    transformer_engine,
    triton,
)

__all__ = ["CHECKS", "Asked", "Check", "Finding", "Status", "examine", "run_check"]

CHECKS: dict[str, Check] = {
    "Python": python.check,
    "packages": packages.check,
    "torch": torch_build.check,
    "Megatron-Core": megatron.check,
    "Transformer Engine": transformer_engine.check,
    "apex": apex.check,
    "GPU": gpu.check,
    "GPU memory": gpu_memory.check,
    "GPUs together": gpus_together.check,
    "Triton": triton.check,
    "processes": processes.check,
    "communication": communication.check,
    "cores": cores.check,
    "memory": memory.check,
    "/dev/shm": shared_memory.check,
    "models": models.check,
    "disk": disk.check_run_folder,
    "temporary files": disk.check_temporary,
    "Hugging Face cache": disk.check_hub_cache,
    "network": network.check,
    "SGLang": sglang.check,
    "SGLang server": server.check,
    "Slurm": slurm.check,
    "lm-eval": extras.check_lm_eval,
    "datasets": extras.check_datasets,
    "trackers": extras.check_trackers,
}


def examine(asked: Asked, on_check: Callable[[str], None] = lambda name: None) -> dict[str, Finding]:
    """Name -> finding of every check; `on_check` hears which one is about to begin."""
    findings = {}
    for name, check in CHECKS.items():
        on_check(name)
        findings[name] = run_check(check, asked)
    return findings
