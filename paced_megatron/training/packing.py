"""Texts of uneven length in rows of one length: which go together, and which replica gets which row."""

from __future__ import annotations

from collections.abc import Sequence

from paced_megatron.errors import UserError


def pack(sizes: Sequence[int], capacity: int, multiple: int = 1) -> list[list[int]]:
    """Bins of at most `capacity`, as indices into `sizes`; each index in exactly one bin.

    As few as first-fit-decreasing needs (at most 11/9 of the best, and one), rounded up to a multiple, and
    then as even as they get: the largest text left goes into the emptiest bin. Where a text would find no
    room that way, the first-fit bins are kept. May hold empty bins.

    Raises:
        UserError: a text is longer than a bin.
    """
    if sizes and max(sizes) > capacity:
        raise UserError(
            f"a text of {max(sizes)} tokens does not fit training.pack_length={capacity}; raise it"
        )
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    tight = _first_fit(order, sizes, capacity)
    count = -(-len(tight) // multiple) * multiple
    return _even(order, sizes, capacity, count) or tight + [[] for _ in range(count - len(tight))]


def _first_fit(order: Sequence[int], sizes: Sequence[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for index in order:
        number = next((number for number, left in enumerate(room) if sizes[index] <= left), len(bins))
        if number == len(bins):
            bins.append([])
            room.append(capacity)
        bins[number].append(index)
        room[number] -= sizes[index]
    return bins


def _even(order: Sequence[int], sizes: Sequence[int], capacity: int, count: int) -> list[list[int]] | None:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in order:
        number = loads.index(min(loads))
        if loads[number] + sizes[index] > capacity:
            return None
        bins[number].append(index)
        loads[number] += sizes[index]
    return bins


def deal(loads: Sequence[int], replicas: int) -> list[list[int]]:
    """The same number of bins (or one less) for every replica, as indices: the fullest first, to and fro, so
    that the replicas' loads are alike."""
    shares: list[list[int]] = [[] for _ in range(replicas)]
    for place, number in enumerate(sorted(range(len(loads)), key=lambda number: -loads[number])):
        turn, seat = divmod(place, replicas)
        shares[seat if turn % 2 == 0 else replicas - 1 - seat].append(number)
    return shares
