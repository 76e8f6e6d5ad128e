"""Several GPUs: NCCL, and whether they reach each other's memory."""

from __future__ import annotations

from itertools import combinations

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem


def check(asked: Asked) -> Finding:
    """What tensor parallelism stands on; a run of one process needs none of it."""
    import torch
    import torch.distributed as dist

    count = torch.cuda.device_count() if asked.uses_gpus and torch.cuda.is_available() else 0
    if count < 2:
        return ok("no two GPUs here")
    wanted = 1 if asked.config is None else asked.config.world_size
    if not dist.is_nccl_available():
        without = "this torch was built without NCCL, by which GPUs exchange tensors"
        if wanted > 1:
            return problem(
                f"{without}: {asked.title} has {wanted} processes", "take a build from pytorch.org"
            )
        return note(without, "take a build from pytorch.org")
    nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
    apart = [
        f"{one} and {other}"
        for one, other in combinations(range(count), 2)
        if not torch.cuda.can_device_access_peer(one, other)
    ]
    if apart:
        return note(
            f"NCCL {nccl}; GPU {', '.join(apart[:4])} don't reach each other's memory: what they exchange "
            "goes through the host, which is slow",
            "data or pipeline parallelism rather than parallel.tensor_model_parallel_size between these",
        )
    return ok(f"NCCL {nccl}; all {count} reach each other's memory")
