"""gloo and NCCL: can a process group be made, and does it add?"""

from __future__ import annotations

from datetime import timedelta

from paced_megatron.doctor.check import Asked, Finding, ok, problem
from paced_megatron.runtime.launch import free_port


def check(asked: Asked) -> Finding:
    """A gloo group of one process, and a port on the loopback address for a job's rendezvous."""
    import torch
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return problem(
            "this torch was built without gloo: no job of ours starts", "take a build from pytorch.org"
        )
    free_port()
    if not dist.is_initialized():
        store = dist.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=20))
        try:
            total = torch.ones(2)
            dist.all_reduce(total)
        finally:
            dist.destroy_process_group()
        if total.tolist() != [1.0, 1.0]:
            return problem(f"gloo adds wrongly: {total.tolist()} for 1 and 1", "take another build of torch")
    nccl = "NCCL is in this torch" if dist.is_nccl_available() else "no NCCL in this torch: no job on GPUs"
    return ok(f"gloo makes a group and reduces over it; {nccl}")
