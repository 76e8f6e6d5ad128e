"""A teacher on processes of its own: two worlds in one job, and the bridge between them.

Each side has a default process group of its own, so that Megatron's global groups, and every collective of
the student's side, need not know of the other. The bridge is one more group, over all processes of the job;
its ranks are the job's. The teacher's side works on call: it waits on the job's store, never inside a
collective, since a phase of rollouts may take hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from paced_megatron.runtime.lead import Lead
from paced_megatron.runtime.signals import asked_to_stop

LET_GO_S = 5.0  # for the teacher's side to hear that the job ends
LOOK_S = 0.01  # between two looks for a call: each step has one


@dataclass(frozen=True)
class Bridge:
    """One process's end of it.

    Attributes:
        rank: in the whole job; the students' processes come first.
        group: over all processes of the job.
        calls: from the students' rank 0 to the teacher's processes; None on the students' other ranks.
    """

    rank: int
    group: dist.ProcessGroup
    calls: Lead | None

    def call(self, name: str, details: Any = None) -> None:
        """Have the teacher's side do something; on every rank of the students' side.

        Args:
            details: what it needs to know; rank 0's is what counts. It is pickled.
        """
        if self.calls is not None:
            self.calls.agree(name)
        self._share(details)

    def next_call(self) -> tuple[str, Any]:
        """Wait for the next call; on every rank of the teacher's side. ("end", None) is the last.

        Raises:
            LeadFailed: the students' rank 0 is gone.
        """
        assert self.calls is not None
        name = self.calls.agree(None)
        return (name, None) if name == END else (name, self._share(None))

    def gather(self, own: Any) -> list[Any]:
        """What every process of the job brings, by its rank. A collective over both sides: the students' call
        the teacher's to it. It is pickled."""
        found = [own] * dist.get_world_size(self.group)
        dist.all_gather_object(found, own, group=self.group)
        return found

    def end(self) -> None:
        """Let the teacher's side go; on every rank of the students' side."""
        if self.calls is not None:
            self.calls.agree(END)
            self.calls.close(wait_s=LET_GO_S)

    def asked(self) -> str | None:
        """The name of the signal by which this process was asked to stop, on the students' rank 0 also a
        process of the teacher's side; None: none was. No collective: what the teacher's side has heard it
        leaves in the job's store, while it waits for a call."""
        return asked_to_stop() if self.calls is None else self.calls.heard()

    def _share(self, details: Any) -> Any:
        shared = [details]
        dist.broadcast_object_list(shared, src=0, group=self.group)
        return shared[0]


END = "end"


def make_bridge(store: dist.Store, backend: str, rank: int, students: int, teachers: int) -> Bridge:
    """A collective over all processes of the job, each of which has joined its side's default group.

    Args:
        store: shared by the job's processes.
        students, teachers: processes on each side.
    """
    # The default group spans one side, and torch's new_group takes ranks of that one alone. This is how
    # trainers reach their rollout engines over NCCL; the group is registered, so that torch.distributed's
    # functions take it.
    world_size = students + teachers
    group, _ = c10d._new_process_group_helper(
        world_size,
        rank,
        [],
        dist.Backend(backend),
        dist.PrefixStore("bridge", store),
        group_name="paced-bridge",  # type: ignore[arg-type]  # a NewType of str, not in every torch
        timeout=timedelta(minutes=30),
    )
    c10d._world.pg_group_ranks[group] = {number: number for number in range(world_size)}
    calls = None
    if rank == 0 or rank >= students:
        calls = Lead(
            max(0, rank - students + 1),
            1 + teachers,
            dist.PrefixStore("calls", store),
            begin_patience_s=math.inf,
            longest_pause_s=LOOK_S,
        )
    return Bridge(rank, group, calls)
