"""The teacher's hidden states, from the ranks that made them to those that hold the student's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.runtime.layout import Layout
from paced_megatron.runtime.teacher_groups import TeacherPlace


@dataclass(frozen=True)
class Parcel:
    """One micro-batch's hidden states on their way.

    Attributes:
        index: of the micro-batch in the step.
        rows: response positions in it, M.
        sources: the ranks that have it, each all of it.
        targets: the ranks that need all of it.
    """

    index: int
    rows: int
    sources: Sequence[int]
    targets: Sequence[int]

    def source_of(self, target: int) -> int:
        """A rank that has it already keeps it; the others are spread over the sources."""
        if target in self.sources:
            return target
        return self.sources[self.targets.index(target) % len(self.sources)]


def parcels(
    rows: Mapping[int, int], replicas: Mapping[int, int], layout: Layout, students: Layout
) -> list[Parcel]:
    """Who makes which micro-batch and who gets it, the same list on every rank.

    The teacher's copies share the micro-batches between them: the first copy the first ones, and so on, so
    that where both models have one layout nobody sends anything in a full batch.

    Args:
        rows: M by index of the micro-batch, of those that are to be made.
        replicas: the student's replica that trains on the micro-batch, by index.
        layout, students: of the teacher and of the student.
    """
    order = list(rows)
    made_by = {
        order[place]: copy for copy in range(layout.dp) for place in layout.copies_share(copy, len(order))
    }
    return [
        Parcel(
            index=index,
            rows=rows[index],
            sources=layout.last_stage(made_by[index]),
            targets=students.last_stage(replicas[index]),
        )
        for index in order
    ]


def hand_over(
    made: Mapping[int, Tensor], sent: Sequence[Parcel], hidden_size: int, like: Tensor, place: TeacherPlace
) -> dict[int, Tensor]:
    """What this rank gets: [M, H_t] by index.

    Takes part on every rank of the job, with the same `sent`. All messages are posted at once, in one fixed
    order of (micro-batch, target), so that two ranks that send to each other can't wait for each other.

    Args:
        made: this rank's own, by index.
        like: a tensor of the hidden states' dtype, on this rank's device.
        place: which rank this is, in the job, and how it reaches the others.
    """
    rank, group = place.rank, None if place.bridge is None else place.bridge.group
    got: dict[int, Tensor] = {}
    messages: list[dist.P2POp] = []
    for parcel in sent:
        for target in parcel.targets:
            source = parcel.source_of(target)
            if source == target == rank:
                got[parcel.index] = made[parcel.index]
            elif target == rank:
                got[parcel.index] = torch.empty(
                    parcel.rows, hidden_size, dtype=like.dtype, device=like.device
                )
                if parcel.rows:
                    messages.append(dist.P2POp(dist.irecv, got[parcel.index], source, group))
            elif source == rank and parcel.rows:
                messages.append(dist.P2POp(dist.isend, made[parcel.index].contiguous(), target, group))
    if messages:
        for request in dist.batch_isend_irecv(messages):
            request.wait()
    return got
