"""What other programs hold of the GPUs, and whether a GPU is cut into slices."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask, is_there

QUERY = [
    "nvidia-smi",
    "--query-gpu=index,memory.used,memory.total,mig.mode.current",
    "--format=csv,noheader,nounits",
]
QUERY_S = 20.0
IN_USE_MIB = 1024  # less is a driver's own, or a desktop's


def check(asked: Asked) -> Finding:
    """By nvidia-smi, which needs no memory of a GPU itself."""
    import torch

    if not asked.uses_gpus or not torch.cuda.is_available():
        return ok("no GPU is used")
    if not is_there(QUERY[0]):
        return ok("there is no nvidia-smi to ask what is in use")
    answer = ask(QUERY, QUERY_S)
    if answer.code != 0:
        return note(f"nvidia-smi does not say what is in use: {answer.why}")
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.lines]
    if sliced := [row[0] for row in rows if row[3:] == ["Enabled"]]:
        # NVIDIA's Multi-Instance GPU User Guide, "CUDA device enumeration".
        return note(
            f"GPU {', '.join(sliced)} is cut into slices (MIG): CUDA shows a process one slice alone, "
            "whatever its LOCAL_RANK",
            "runs of one process, each with its slice in CUDA_VISIBLE_DEVICES, or switch MIG off",
        )
    busy = [
        f"{int(row[1]) / 1024:.1f} of {int(row[2]) / 1024:.1f} GB of GPU {row[0]}"
        for row in rows
        if row[1].isdigit() and row[2].isdigit() and int(row[1]) > IN_USE_MIB
    ]
    if busy:
        return note(
            f"{', '.join(busy)} are in use by other programs, which the run can't have",
            "nvidia-smi names them: end them, or take other GPUs by CUDA_VISIBLE_DEVICES",
        )
    return ok("nothing else has any to speak of")
