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
from paced_megatron.runtime.bridge import make_bridge
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.departure import leaving_last
from paced_megatron.runtime.layout import Layout
from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.out_of_memory import OutOfMemory, ending_alone
from paced_megatron.runtime.signals import Stopped, asked_to_stop
from paced_megatron.runtime.teacher_groups import TeacherPlace, place_teacher, teacher_place_apart


@dataclass(frozen=True)
class World:
    """One process's place in the job.

    Attributes:
        rank, world_size: this process and the number of all that hold a part of the student, as torchrun
            counts them.
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
        # A second set beside NCCL's, over which Megatron gathers the distributed optimizer's state for
        # checkpoints of its older format. Ours are written in the ranks (training/checkpoints/).
        create_gloo_process_groups=False,
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
    """Join the job that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) on the
    student's side, and leave it at the end.

    Raises:
        UserError: the job has another number of processes than the configuration asks for.
    """
    rank, world_size = _rank_in_job(parallel, teacher)
    students = parallel.world_size
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(_device())
        store = _job_store(rank, world_size)
        stack.enter_context(leaving_last(dist.PrefixStore("departure", store), rank, students))
        groups = stack.enter_context(_joined_side("group", parallel, seed, rank, students, store, device))
        asked = asked_to_stop
        if teacher.own_ranks:
            bridge = make_bridge(store, _backend(device), rank, students, world_size - students)
            asked = bridge.asked
            place = teacher_place_apart(
                bridge, _layout(parallel), _layout(_teachers(parallel, teacher)), None
            )
        else:
            sizes = teacher.tensor_model_parallel_size, teacher.pipeline_model_parallel_size
            place = place_teacher(groups, *sizes)
        # Rank 0 writes an exported folder before it comes to the next call; a large one takes its time.
        lead = Lead(rank, students, dist.PrefixStore("lead", store), begin_patience_s=3600.0, asked=asked)
        try:
            with ending_alone(lead, rank, device):
                yield World(rank, students, device, groups, lead, place)
        except Stopped:  # on all of the student's ranks alike
            _let_go(place)
            lead.close()
            raise
        except OutOfMemory:  # on this rank alone: nobody to agree with
            raise
        except UserError:
            _let_go(place)
            raise
        _let_go(place)
        lead.close()


def _let_go(place: TeacherPlace) -> None:
    """Of the teacher's side, which waits for the next call."""
    if place.bridge is not None:
        place.bridge.end()


def is_teachers(parallel: ParallelConfig) -> bool:
    """Whether this process holds a part of the teacher alone."""
    return int(os.environ.get("RANK", 0)) >= parallel.world_size


@contextlib.contextmanager
def joined_teacher(parallel: ParallelConfig, teacher: TeacherConfig, seed: int) -> Iterator[TeacherPlace]:
    """As `joined_world`, on the side of a teacher with processes of its own."""
    rank, world_size = _rank_in_job(parallel, teacher)
    students, own = parallel.world_size, _teachers(parallel, teacher)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(_device())
        store = _job_store(rank, world_size)
        side = _joined_side("teacher", own, seed, rank - students, own.world_size, store, device)
        groups = stack.enter_context(side)
        bridge = make_bridge(store, _backend(device), rank, students, own.world_size)
        yield teacher_place_apart(bridge, _layout(parallel), _layout(own), groups)


def _rank_in_job(parallel: ParallelConfig, teacher: TeacherConfig) -> tuple[int, int]:
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = teacher.own_processes(parallel)
    wanted = parallel.world_size + own
    if world_size != wanted:
        more = f", and the teacher has {own} of its own" if own else ""
        raise UserError(
            f"the job has {world_size} processes, but the product of parallel.tensor_model_parallel_size, "
            f"pipeline_model_parallel_size and data_parallel_size is {parallel.world_size}{more}; start it "
            f"with {wanted}, or let `paced run` start them"
        )
    return rank, world_size


def _teachers(parallel: ParallelConfig, teacher: TeacherConfig) -> ParallelConfig:
    """The layout of a teacher on ranks of its own."""
    return ParallelConfig(
        tensor_model_parallel_size=teacher.tensor_model_parallel_size or parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=(
            teacher.pipeline_model_parallel_size or parallel.pipeline_model_parallel_size
        ),
        data_parallel_size=teacher.data_parallel_size,
    )


def _layout(parallel: ParallelConfig) -> Layout:
    return Layout(
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.data_parallel_size,
    )


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


@contextlib.contextmanager
def _device() -> Iterator[torch.device]:
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        yield device
    else:
        with megatron_on_cpu():
            yield device


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _job_store(rank: int, world_size: int) -> dist.Store:
    if world_size == 1:
        return dist.HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the agent's store outlives an attempt
    # torchrun's agent already serves a store on this port; otherwise rank 0 does.
    agent_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        host, port, world_size, is_master=rank == 0 and not agent_serves, timeout=timedelta(minutes=5)
    )
    return dist.PrefixStore(f"attempt-{attempt}", store)


@contextlib.contextmanager
def _joined_side(
    name: str,
    parallel: ParallelConfig,
    seed: int,
    rank: int,
    world_size: int,
    store: dist.Store,
    device: torch.device,
) -> Iterator[ProcessGroupCollection]:
    """The default group and Megatron's of one side of the job, of which this is the `rank`-th process."""
    backend = _backend(device)
    dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=world_size)
    try:
        yield parallel_groups(
            parallel.tensor_model_parallel_size,
            seed,
            parallel.pipeline_model_parallel_size,
            parallel.virtual_pipeline_model_parallel_size,
        )
    finally:
        _leave()


def _leave() -> None:
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
