"""Weights between a Megatron model and a Hugging Face folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from safetensors.torch import save_file
from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.models.mapping import Cut, rules
from paced_megatron.models.weight_files import SINGLE, WeightFiles, check_weights
from paced_megatron.runtime.files import atomic_folder

# What an inference engine needs beside the weights; copied from the source, since rebuilding loses special
# tokens and the like.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@torch.no_grad()
def load_weights(
    model: HiddenStatesModel, shape: ModelShape, folder: Path, groups: ProcessGroupCollection
) -> None:
    """Fill this rank's part of the model from a Hugging Face folder.

    Raises:
        UserError: a tensor is missing, has no place in the map, or has another shape than config.json says.
    """
    check_weights(folder, shape)
    files, cut, rank = WeightFiles(folder), Cut(shape, groups.tp.size()), groups.tp.rank()
    parameters = dict(model.named_parameters())
    for rule in rules(shape):
        parameter = parameters.pop(rule.megatron)
        try:
            part = rule.shard([files[name] for name in rule.hugging_face], cut, rank)
            matches = part.shape == parameter.shape
        except RuntimeError:  # a tensor that can't even be cut as the map says
            matches = False
        if not matches:
            raise UserError(f"{folder}: {', '.join(rule.hugging_face)}: another shape than config.json says")
        parameter.copy_(part)
    assert not parameters, f"parameters that the map does not fill: {sorted(parameters)}"


def _gather_parts(part: Tensor, groups: ProcessGroupCollection) -> list[Tensor] | None:
    """Every rank's part on the first rank of the tensor-parallel group, None on the others."""
    part = part.detach().contiguous()
    if groups.tp.size() == 1:
        return [part]
    parts = [torch.empty_like(part) for _ in range(groups.tp.size())] if groups.tp.rank() == 0 else None
    dist.gather(part, parts, dst=dist.get_process_group_ranks(groups.tp)[0], group=groups.tp)
    return parts


def hugging_face_tensors(
    tensors: Mapping[str, Tensor], shape: ModelShape, groups: ProcessGroupCollection
) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors under Hugging Face's names, on the CPU, on the first rank of the tensor-parallel group.

    A collective: every rank of the group must walk the iterator to its end; the others get nothing from it.

    Args:
        tensors: this rank's parts under Megatron's names; parameters, or anything else shaped like them
            (gradients).
    """
    cut = Cut(shape, groups.tp.size())
    for rule in rules(shape):
        parts = _gather_parts(tensors[rule.megatron], groups)
        if parts is not None:
            for name, tensor in rule.merge(parts, cut).items():
                yield name, tensor.cpu().contiguous()


def save_folder(
    model: HiddenStatesModel,
    shape: ModelShape,
    groups: ProcessGroupCollection,
    *,
    source: Path,
    out: Path,
    replace: bool = False,
) -> None:
    """Write the model as a Hugging Face folder, whole or not at all, with the source's config and tokenizer
    files.

    Called on every rank; the first replica gathers, and its first rank writes.
    Weights are written in the source's dtype, which is the one that its config.json names. `replace` allows
    `out` to be there already.
    """
    if groups.dp.rank():
        return  # a copy of what the first replica writes
    source_files = WeightFiles(source)
    dtype = source_files.dtype(min(source_files.names()))
    parameters = dict(model.named_parameters())
    tensors = {name: tensor.to(dtype) for name, tensor in hugging_face_tensors(parameters, shape, groups)}
    if groups.tp.rank():
        return
    with atomic_folder(out, replace) as folder:
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
        for name in _COMPANIONS:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
