"""Which part of a checkpoint's tensors lies on this rank, cut into blocks.

Megatron tells for each of the model's parameters where this rank's part lies in the whole
(`sharded_state_dict`). The optimizer's tensors lie in the same place. The distributed optimizer's ranks have
a flat range of a parameter each, which is seldom a block; but a flat range of a row-major tensor is a few
blocks. So every rank writes what it has, nothing is gathered, and a checkpoint looks the same whatever layout
wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
    is_main_replica,
)
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor
from torch.nn import Parameter

from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.training.optimizer import OwnedState, owned_states

STUDENT = "student"  # its keys have no prefix, so that a checkpoint is Megatron's own of that model


@dataclass(frozen=True)
class Block:
    """A box of one tensor of the checkpoint.

    Attributes:
        key: the tensor's name.
        shape: of the whole tensor.
        offsets: where in it the box begins, an entry per axis.
        data: the box's content, a view of live memory, as many axes as `shape`.
        written: whether it is this rank that writes it; every rank reads its own.
        padded: the first axis is the vocabulary with its padding, which depends on the layout.
    """

    key: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    data: Tensor
    written: bool
    padded: bool = False


Entries = dict[Parameter, list[ShardedTensor]]


def model_entries(name: str, chunks: Sequence[HiddenStatesModel]) -> tuple[Entries, list[str]]:
    """Megatron's description of this rank's part of a model: for each parameter the tensors that it is a part
    of, in the order in which they lie in it; and the keys of objects that Megatron's loader asks for beside
    them and that hold nothing (`_extra_state`), as far as this rank writes them."""
    prefix = "" if name == STUDENT else f"{name}."
    entries: Entries = {}
    empty: list[str] = []
    for chunk in chunks:
        for entry in chunk.sharded_state_dict(prefix=prefix).values():
            if isinstance(entry, ShardedObject):
                if is_main_replica(entry.replica_id):
                    empty.append(entry.unique_key)
            elif isinstance(entry, ShardedTensorFactory):  # gate and up, which lie in one parameter
                entries[entry.data] = list(entry.build())
            else:
                entries[entry.data] = [entry]
    missing = [key for chunk in chunks for key, weight in chunk.named_parameters() if weight not in entries]
    assert not missing, f"parameters that Megatron does not describe: {missing}"
    return entries, empty


def model_blocks(entries: Entries) -> Iterator[Block]:
    """This rank's weights."""
    for parameter, parts in entries.items():
        flat = parameter.data.view(-1)
        yield from _blocks(parts, "", flat, 0, lambda part: is_main_replica(part.replica_id))


def optimizer_blocks(optimizer: MegatronOptimizer, entries: Entries) -> Iterator[Block]:
    """This rank's part of the optimizer's state: moments, and float32 main weights of bf16 ones.

    They lie under the names that Megatron-Core gives them: `optimizer.state.exp_avg.KEY` and so on.
    """
    for owned in owned_states(optimizer):
        parts = entries[owned.parameter]
        for name, tensor in owned.tensors.items():
            yield from _blocks(
                parts,
                f"optimizer.state.{name}.",
                tensor.detach().view(-1),
                owned.start,
                partial(_is_written, owned),
            )


def _is_written(owned: OwnedState, part: ShardedTensor) -> bool:
    """The distributed optimizer's data-parallel ranks (the last number of a replica) have different parts."""
    replica = part.replica_id
    assert isinstance(replica, tuple) and len(replica) == 3, replica
    return not any(replica[:2] if owned.is_shared_out else replica)


def _blocks(
    parts: Sequence[ShardedTensor],
    prefix: str,
    flat: Tensor,
    start: int,
    is_written: Callable[[ShardedTensor], bool],
) -> Iterator[Block]:
    """Blocks of `flat`, which holds a parameter's elements from number `start` on."""
    begin = 0
    for part in parts:
        end = begin + math.prod(part.local_shape)
        first, last = max(begin, start), min(end, start + flat.numel())
        if first < last:
            prepended = len(part.global_shape) - len(part.local_shape)  # the axis of the layers
            for offsets, sizes, skipped in flat_range(part.local_shape, first - begin, last - begin):
                place = first - start + skipped
                yield Block(
                    key=prefix + part.key,
                    shape=tuple(part.global_shape),
                    offsets=tuple(part.global_offset[:prepended])
                    + tuple(a + b for a, b in zip(part.global_offset[prepended:], offsets, strict=True)),
                    data=flat[place : place + math.prod(sizes)].view((1,) * prepended + sizes),
                    written=is_written(part),
                    padded=bool(part.allow_shape_mismatch),
                )
        begin = end


def flat_range(
    shape: Sequence[int], start: int, end: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Elements `start` to `end` of a row-major tensor as boxes: (offsets, sizes, elements of the range before
    it). At most one less than twice the number of axes; the boxes lie in the range one after the other."""
    if start >= end:
        return
    if len(shape) <= 1:
        yield (start,) * len(shape), (end - start,) * len(shape), 0
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), end // row  # whole rows
    if first > last:  # within one row
        yield from _in_row(shape, last, start, end, 0)
        return
    yield from _in_row(shape, first - 1, start, first * row, 0)
    if first < last:
        yield (first, *[0] * (len(shape) - 1)), (last - first, *shape[1:]), first * row - start
    yield from _in_row(shape, last, last * row, end, last * row - start)


def _in_row(
    shape: Sequence[int], index: int, start: int, end: int, before: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    row = math.prod(shape[1:])
    for offsets, sizes, skipped in flat_range(shape[1:], start - index * row, end - index * row):
        yield (index, *offsets), (1, *sizes), before + skipped
