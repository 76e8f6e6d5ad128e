"""The processes of one job as an object: who am I, on which device, and in which groups."""

from __future__ import annotations

import paced_megatron.runtime.uncompiled  # noqa: F401  before Megatron-Core

# isort: split
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection

from paced_megatron.config import ParallelConfig, TeacherConfig
from paced_megatron.errors import UserError
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.teacher_groups import TeacherPlace, place_teacher


@dataclass(frozen=True)
class World:
    """One process's place in the job.

    Attributes:
        rank, world_size: this process and the number of all, as torchrun counts them.
        device: where tensors live: the CPU, or this process's GPU.
        groups: Megatron's process groups (`tp`, `dp`, `pp`, ...); they are handed to whatever communicates.
        lead: rank 0 works alone, the others wait for it.
        teacher: where the teacher runs; None: where the student does.
    """

    rank: int
    world_size: int
    device: torch.device
    groups: ProcessGroupCollection
    lead: Lead
    teacher: TeacherPlace | None = None

    @property
    def is_lead(self) -> bool:
        return self.rank == 0


def parallel_groups(
    tensor_model_parallel_size: int,
    seed: int,
    pipeline_model_parallel_size: int = 1,
    virtual_pipeline_model_parallel_size: int | None = None,
) -> ProcessGroupCollection:
    """Megatron's groups over the processes of the default group: neighbours share each layer (TP), ranks
    further apart the layers between them (PP), the rest is data parallel.

    Megatron's random states are seeded too: its attention asks for them, also where there is no dropout.

    Raises:
        UserError: the number of processes is no multiple of what one model takes.
    """
    tp, pp = tensor_model_parallel_size, pipeline_model_parallel_size
    if dist.get_world_size() % (tp * pp):
        pipelined = f" x pipeline_model_parallel_size={pp}" if pp > 1 else ""
        raise UserError(
            f"{dist.get_world_size()} processes can't be divided into groups of "
            f"parallel.tensor_model_parallel_size={tp}{pipelined}"
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=virtual_pipeline_model_parallel_size,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return ProcessGroupCollection.use_mpu_process_groups()


def local_device() -> torch.device:
    """This process's GPU (by LOCAL_RANK) where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return CPU


@contextlib.contextmanager
def joined_world(parallel: ParallelConfig, teacher: TeacherConfig, seed: int) -> Iterator[World]:
    """Join the job that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), and leave it
    at the end.

    Raises:
        UserError: the job has another number of processes than `parallel` asks for.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    wanted = parallel.world_size
    if world_size != wanted:
        raise UserError(
            f"the job has {world_size} processes, but the product of parallel.tensor_model_parallel_size, "
            f"pipeline_model_parallel_size and data_parallel_size is {wanted}; start it with {wanted}, or "
            "let `paced run` start them"
        )
    device = local_device()
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        else:
            stack.enter_context(megatron_on_cpu())
        store = _join(rank, world_size, device)
        stack.callback(_leave)
        groups = parallel_groups(
            parallel.tensor_model_parallel_size,
            seed,
            parallel.pipeline_model_parallel_size,
            parallel.virtual_pipeline_model_parallel_size,
        )
        # Rank 0 writes an exported folder before it comes to the next call; a large one takes its time.
        lead = Lead(rank, world_size, store, begin_patience_s=3600.0)
        place = place_teacher(
            groups, teacher.tensor_model_parallel_size, teacher.pipeline_model_parallel_size
        )
        yield World(rank, world_size, device, groups, lead, place)
        lead.close()


@contextlib.contextmanager
def job_of_one() -> Iterator[None]:
    """For whoever needs a model on the CPU outside of any job: Megatron asks for one, so this process plays
    it."""
    with megatron_on_cpu():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            _leave()


def _join(rank: int, world_size: int, device: torch.device) -> dist.Store:
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world_size == 1:
        store: dist.Store = dist.HashStore()
    else:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun's agent already serves a store on this port; otherwise rank 0 does.
        agent_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = dist.TCPStore(
            host, port, world_size, is_master=rank == 0 and not agent_serves, timeout=timedelta(minutes=5)
        )
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=world_size)
    return dist.PrefixStore("lead", store)


def _leave() -> None:
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
