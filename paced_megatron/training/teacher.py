"""The teacher: its final hidden states for a step, and its head. No wrapper, gradient buffer or optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.folder import load_weights
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks
from paced_megatron.runtime.teacher_groups import TeacherPlace
from paced_megatron.runtime.transfer import to_device
from paced_megatron.training.batches import MicroBatch, TokenRows
from paced_megatron.training.forward import final_hidden_states
from paced_megatron.training.sleep import Sleeper
from paced_megatron.training.teacher_cache import TeacherCache
from paced_megatron.training.teacher_handover import Parcel, hand_over, parcels
from paced_megatron.training.teacher_head import HeadCut

# What a teacher on ranks of its own is called for (teacher_service.py).
LOAD, HIDDEN_STATES, GPU = "load", "hidden states", "GPU"


@dataclass(frozen=True)
class Work:
    """Micro-batches that the teacher runs over, by their index in the step.

    Attributes:
        rows: its texts, and where their responses are.
        owners: the student's replica that trains on the micro-batch.
    """

    rows: Mapping[int, TokenRows]
    owners: Mapping[int, int]


@dataclass(frozen=True)
class Loading:
    """What a teacher on ranks of its own has to load: see `Teacher.from_folder`."""

    folder: Path
    dtype: torch.dtype
    student: ModelShape
    offload: bool
    transformer_impl: str


@dataclass(frozen=True)
class Teacher:
    """This rank's part of it, in a layout of its own.

    Attributes:
        shape: what its config.json says.
        place: its layout and groups, and the student's layout.
        model: frozen; None on a rank without a part of the teacher.
        head: its head's rows of this rank's part of the vocabulary, cut at the student's boundaries; None
            where the student's head is not.
        like: an empty tensor of the hidden states' dtype, on this rank's device.
        body: puts the model to sleep, but for what the head shares its memory with: the student's turn needs
            the head.
        head_sleeper: puts the head to sleep, between steps only.
        offload: `body` sleeps whenever it isn't computing.
        cache: hidden states kept on disk; None: they are made anew each time.
    """

    shape: ModelShape
    place: TeacherPlace
    model: HiddenStatesModel | None
    head: Tensor | None
    like: Tensor
    body: Sleeper
    head_sleeper: Sleeper
    offload: bool = False
    cache: TeacherCache | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        place: TeacherPlace,
        dtype: torch.dtype,
        *,
        student: ModelShape,
        offload: bool = False,
        cache: TeacherCache | None = None,
        transformer_impl: str = "local",
    ) -> Teacher:
        """Load this rank's part from a Hugging Face folder. A collective over all ranks of the job; those
        of a teacher on ranks of its own are called.

        Args:
            student: whose vocabulary boundaries the head is cut at.
            transformer_impl: whose layers, as the student's.
        """
        shape, model = model_shape(folder), None
        if place.bridge is not None and place.groups is None:
            place.bridge.call(LOAD, Loading(folder, dtype, student, offload, transformer_impl))
        if place.groups is not None:
            (model,) = build_chunks(shape, place.groups, dtype, transformer_impl=transformer_impl)
            load_weights(model, shape, folder, place.groups)
            model.requires_grad_(False).eval()
            # Its stages tell each other the shape of what comes: texts of any length, whatever the student's
            # schedule wants of them.
            model.config.variable_seq_lengths = place.layout.pp > 1
        like = torch.empty(0, dtype=dtype, device=torch.cuda.current_device())
        cut = HeadCut(shape, student, place.layout, place.students, place.rank)
        head = _cut_head(folder, cut, model, like)
        dist.barrier()  # NCCL wants a first collective on the group before messages between two of its ranks
        return cls(
            shape,
            place,
            model,
            head,
            like,
            body=Sleeper("teacher", lambda: _memory(model, without=head), frozen=True),
            head_sleeper=Sleeper("teacher's head", lambda: [] if head is None else [head], frozen=True),
            offload=offload,
            cache=cache,
        )

    def hidden_states(self, batches: Sequence[Sequence[MicroBatch]]) -> list[Tensor | None]:
        """The final hidden states [M, H_t] at the response's positions, for each micro-batch of this rank's
        own replica of the student, on the ranks that hold the student's head; None elsewhere.

        A collective over all ranks of the job; those of a teacher on ranks of its own are called.

        Args:
            batches: every student replica's micro-batches, the same on all ranks.
        """
        self.head_sleeper.check_awake()
        step = [micro_batch for replica in batches for micro_batch in replica]
        owners = [replica for replica, batch in enumerate(batches) for _ in batch]
        rank, students = self.place.rank, self.place.students
        mine = [index for index, owner in enumerate(owners) if owner == students.copy_of(rank)]
        needs = mine if students.is_last_stage(rank) else []
        found = {} if self.cache is None else self.cache.read([(i, step[i].examples) for i in needs])
        missing = [index for index in needs if index not in found]
        wanted = range(len(step)) if self.cache is None else self._agree(missing, len(step))
        work = Work({i: step[i].teacher for i in wanted}, {i: owners[i] for i in wanted})
        if self.place.bridge is not None:
            self.place.bridge.call(HIDDEN_STATES, work)
        got = self.made(work)
        if self.cache is not None and students.tp_rank(rank) == 0:
            self.cache.write(
                [micro_batch.examples for micro_batch in step],
                {index: got[index] for index in needs if index in got},
            )
        # What was made anew for one rank of a group is taken by all of it, so that they have the same bits.
        return [(found | got).get(index) for index in mine]

    def _agree(self, missing: Sequence[int], count: int) -> list[int]:
        """The micro-batches that some rank is missing."""
        flags = torch.zeros(count, dtype=torch.int32)
        flags[list(missing)] = 1
        flags = to_device(flags, self.like.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return [index for index, flag in enumerate(flags.tolist()) if flag]

    def made(self, work: Work) -> dict[int, Tensor]:
        """Forward over these micro-batches, and what of it this rank is handed. On all ranks of the job."""
        sent = parcels(
            {index: rows.positions.numel() for index, rows in work.rows.items()},
            work.owners,
            self.place.layout,
            self.place.students,
        )
        made = self._forward(work.rows, self._own_share(sent))
        return hand_over(made, sent, self.shape.hidden_size, self.like, self.place)

    def _own_share(self, sent: Sequence[Parcel]) -> list[int]:
        copy = self.place.layout.copy_of(self.place.rank)
        return (
            []
            if copy is None
            else [parcel.index for parcel in sent if parcel.sources == self.place.layout.last_stage(copy)]
        )

    def _forward(self, rows: Mapping[int, TokenRows], share: Sequence[int]) -> dict[int, Tensor]:
        """Hidden states by index, on the model's last stage; none of an empty share."""
        if self.model is None or self.place.groups is None or not share:
            return {}
        self.body.wake()
        self.body.check_awake()
        hidden = final_hidden_states(
            [self.model], [rows[index] for index in share], self.place.groups, self.like.device
        )
        if self.offload:
            self.body.sleep()
        return {index: states for index, states in zip(share, hidden, strict=True) if states is not None}

    @property
    def sleepers(self) -> tuple[Sleeper, Sleeper]:
        """All that sleeps while the job does something else than training."""
        return self.body, self.head_sleeper

    @property
    def chunks(self) -> tuple[HiddenStatesModel, ...]:
        """None: training doesn't change it."""
        return ()

    def follow(self) -> None:
        """It is frozen."""


def _cut_head(folder: Path, cut: HeadCut, model: HiddenStatesModel | None, like: Tensor) -> Tensor | None:
    """The head's rows that this rank needs; the model's own go where they are of no use."""
    if cut.needed is None:
        head = None
    elif model is not None and cut.model_has_it:
        head = model.head[: len(cut.needed)]
    else:
        head = cut.read(folder, like)
    if model is not None and cut.drops_own:
        model.output_layer = None
    return head


def _memory(model: HiddenStatesModel | None, *, without: Tensor | None) -> Iterator[Tensor]:
    """The model's parameters, but for those that share their memory with the head, which the student's turn
    needs too."""
    if model is None:
        return
    kept = None if without is None else without.untyped_storage().data_ptr()
    for parameter in model.parameters():
        if parameter.untyped_storage().data_ptr() != kept:
            yield parameter
