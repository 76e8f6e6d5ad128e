"""/dev/shm, which containers give little of."""

from __future__ import annotations

import shutil
from pathlib import Path

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.limits import gb

SHM = Path("/dev/shm")
ENOUGH = 2**30  # Docker's default is 64 MB


def check(asked: Asked, folder: Path = SHM, enough: int = ENOUGH) -> Finding:
    """NCCL and SGLang pass data between the processes of a node through it; gloo does not."""
    if not folder.is_dir():
        return note(f"there is no {folder}: NCCL and SGLang may fail on GPUs", "--ipc=host for a container")
    size = shutil.disk_usage(folder)
    says = f"{gb(size.free)} of {gb(size.total)} are free"
    if size.free < enough:
        return note(
            f"{says}: too little for NCCL and SGLang on GPUs, which then end with a bus error; gloo, on "
            "the CPU, needs none",
            "--shm-size=8g or --ipc=host for a container; else remove what lies in it",
        )
    return ok(says)
