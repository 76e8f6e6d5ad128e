"""Weights between a Megatron model and a Hugging Face folder."""

from __future__ import annotations

import paced_megatron.runtime.uncompiled  # noqa: F401  before Megatron-Core

# isort: split
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from paced_megatron.models.convert import shown_in_mb
from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel, parameters_by_name
from paced_megatron.models.hf_writer import write_folder
from paced_megatron.models.mapping import Cut, filling_rules, hugging_face_shapes, rules
from paced_megatron.models.weight_files import WeightFiles, check_weights
from paced_megatron.progress import console_for

SHOWN_FROM = 2 * 10**9  # bytes; fewer take seconds


def _shown(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """The progress of `total` bytes, on rank 0 and where there are many."""
    return shown_in_mb(what, total, console_for(dist.get_rank() if total >= SHOWN_FROM else 1))


@torch.no_grad()
def load_weights(
    model: HiddenStatesModel | Sequence[HiddenStatesModel],
    shape: ModelShape,
    folder: Path,
    groups: ProcessGroupCollection,
) -> None:
    """Fill this rank's part of the model from a Hugging Face folder; of the files only that part is read.

    Args:
        model: with virtual pipeline stages all of this rank's chunks.

    Raises:
        UserError: a tensor is missing, has no place in the map, or has another shape than config.json says.
    """
    check_weights(folder, shape)
    files, cut, rank = WeightFiles(folder), Cut(shape, groups.tp.size()), groups.tp.rank()
    unfilled, everything = parameters_by_name(model), rules(shape)
    with _shown(f"loading {folder.name}", sum(held.nbytes for held in unfilled.values())) as advance:
        for rule in filling_rules(shape):
            name = rule.megatron
            if name not in unfilled:
                assert groups.pp.size() > 1 or rule not in everything, f"the model has no {name}"
                continue  # on another pipeline stage
            parameter = unfilled.pop(name)
            part = rule.shard([files.part_of(tensor) for tensor in rule.hugging_face], cut, rank)
            assert part.shape == parameter.shape, f"{name}: {part.shape} for {parameter.shape}"
            parameter.copy_(part)
            advance(parameter.nbytes)
    assert not unfilled, f"parameters that the map does not fill: {sorted(unfilled)}"


def _gather_parts(part: Tensor, groups: ProcessGroupCollection) -> list[Tensor] | None:
    """Every rank's part on the first rank of the tensor-parallel group, None on the others."""
    part = part.detach().contiguous()
    if groups.tp.size() == 1:
        return [part]
    parts = [torch.empty_like(part) for _ in range(groups.tp.size())] if groups.tp.rank() == 0 else None
    dist.gather(part, parts, dst=dist.get_process_group_ranks(groups.tp)[0], group=groups.tp)
    return parts


def _owners(
    tensors: Mapping[str, Tensor], groups: ProcessGroupCollection
) -> dict[str, tuple[int, torch.dtype]]:
    """By Megatron's name: the first pipeline stage that has the tensor, and its dtype."""
    mine = {name: tensor.dtype for name, tensor in tensors.items()}
    everyones: list[Any] = [mine] * groups.pp.size()
    if groups.pp.size() > 1:
        dist.all_gather_object(everyones, mine, group=groups.pp)
    return {
        name: (stage, dtype)
        for stage, names in reversed(list(enumerate(everyones)))
        for name, dtype in names.items()
    }


def _on_first_stage(
    whole: dict[str, Tensor], stage: int, groups: ProcessGroupCollection
) -> dict[str, Tensor] | None:
    """A rule's Hugging Face tensors, which `stage` has and sends to the first one; None where they are not.
    On the first stage `whole` is what to receive them into."""
    if stage == 0:
        return whole
    ranks = dist.get_process_group_ranks(groups.pp)
    for tensor in whole.values():
        if groups.pp.rank() == stage:
            dist.send(tensor.contiguous(), dst=ranks[0], group=groups.pp)
        else:
            dist.recv(tensor, src=ranks[stage], group=groups.pp)
    return None if groups.pp.rank() == stage else whole


def hugging_face_tensors(
    tensors: Mapping[str, Tensor], shape: ModelShape, groups: ProcessGroupCollection
) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors under Hugging Face's names, on the CPU, one after the other, on the first rank of the
    tensor-parallel group of the first pipeline stage.

    A collective: every rank of a model must walk the iterator to its end; the others get nothing from it. No
    rank holds more than one rule's tensors at a time. They may share memory with `tensors`: whoever keeps one
    beyond the next optimizer step copies it.

    Args:
        tensors: this rank's parts under the names of `parameters_by_name`; parameters, or anything else
            shaped like them (gradients).
    """
    cut, owners, here = Cut(shape, groups.tp.size()), _owners(tensors, groups), groups.pp.rank()
    device = next(iter(tensors.values())).device
    for rule in rules(shape):
        name = rule.megatron
        assert name in owners, f"no rank has {name}"
        stage, dtype = owners[name]
        parts = _gather_parts(tensors[name], groups) if here == stage else None
        if groups.tp.rank() or here not in (0, stage):
            continue
        if parts is None:
            whole = {
                tensor_name: torch.empty(size, dtype=dtype, device=device)
                for tensor_name, size in rule.hugging_face.items()
            }
        else:
            whole = rule.merge(parts, cut)
        for tensor_name, tensor in (_on_first_stage(whole, stage, groups) or {}).items():
            yield tensor_name, tensor.cpu().contiguous()


def save_folder(
    model: HiddenStatesModel | Sequence[HiddenStatesModel],
    shape: ModelShape,
    groups: ProcessGroupCollection,
    *,
    source: Path,
    out: Path,
    dtype: torch.dtype | None = None,
    replace: bool = False,
) -> None:
    """Write the model as a Hugging Face folder, whole or not at all, with the source's config and tokenizer
    files, tensor by tensor.

    Called on every rank; the first replica gathers, and its first rank writes.

    Args:
        model: with virtual pipeline stages all of this rank's chunks.
        dtype: of the weights; None gives each tensor the dtype that it has in `source`.
        replace: allow `out` to be there already.
    """
    if groups.dp.rank():
        return  # a copy of what the first replica writes
    source_files = WeightFiles(source)
    tensors = (
        (name, tensor.to(dtype or source_files.dtype(name)))
        for name, tensor in hugging_face_tensors(parameters_by_name(model), shape, groups)
    )
    if groups.tp.rank() or groups.pp.rank():
        for _ in tensors:  # takes part, and gets nothing
            pass
        return
    shapes = hugging_face_shapes(shape)
    total = sum(
        math.prod(size) * (dtype or source_files.dtype(name)).itemsize for name, size in shapes.items()
    )
    with _shown(f"writing {out.name}", total) as advance:
        write_folder(
            _counted(tensors, advance), shapes=shapes, source=source, out=out, dtype=dtype, replace=replace
        )


def _counted(
    tensors: Iterable[tuple[str, Tensor]], advance: Callable[[int], None]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        size = tensor.nbytes
        yield name, tensor
        del tensor  # the next one comes in its place
        advance(size)
