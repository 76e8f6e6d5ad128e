"""Is a conversion right? Every tensor read back and compared bit by bit, and logits where the model fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from rich.console import Console
from torch import Tensor

from paced_megatron.models.checkpoint_metadata import find_checkpoint
from paced_megatron.models.convert import find_tensors, shown_in_mb
from paced_megatron.models.distributed_checkpoint import Checkpoint
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.mapping import hugging_face_shapes, rules
from paced_megatron.models.output import MB
from paced_megatron.models.weight_files import WeightFiles, check_weights
from paced_megatron.progress import say

if TYPE_CHECKING:
    from paced_megatron.models.gpt import HiddenStatesModel

PROMPT_LENGTH = 32  # random tokens
# Of the largest logit. Both sides compute in float32, in another order.
LOGITS_TOLERANCE = 1e-4


Fill = Callable[["HiddenStatesModel", Path, ModelShape], None]
"""Fills an empty model from a checkpoint's folder."""


class ConversionDiffers(Exception):
    """What was written is not what was read. The message is one line that names the tensor."""


def check_conversion(
    checkpoint: Path,
    folder: Path,
    *,
    config: Path,
    made: str,
    dtype: torch.dtype | None,
    console: Console,
) -> None:
    """Compare a checkpoint with a Hugging Face folder: all tensors, and the logits of a prompt.

    Args:
        checkpoint, folder: one of them was made from the other.
        config: the folder whose config.json counts.
        made: which of them, "checkpoint" or "folder".
        dtype: what it was made in; None: that of what it was made from.

    Raises:
        ConversionDiffers: they are not the same.
        UserError: one of them can't be read.
    """
    shape = model_shape(config)
    check_weights(folder, shape)
    stored, files = Checkpoint(find_checkpoint(checkpoint)), WeightFiles(folder)
    total = sum(files[name].nbytes for name in hugging_face_shapes(shape))
    with shown_in_mb("verifying", total, console) as advance:
        for name, theirs in _tensors(stored, shape):
            ours = files[name]
            before, after = (ours, theirs) if made == "checkpoint" else (theirs, ours)
            if not _same_bits(before if dtype is None else before.to(dtype), after):
                raise ConversionDiffers(f"verify: tensor {name} is not the one that was read")
            advance(ours.nbytes)
    fill = _filled_by_megatron if made == "checkpoint" else _filled_by_us
    _check_logits(checkpoint, folder, shape, dtype, fill, console)


def _tensors(stored: Checkpoint, shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    for rule, place in find_tensors(stored, shape):
        yield from place.merged(stored, rule, shape).items()


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """Also where they are NaN, and apart where they are 0 and -0."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


def _check_logits(
    checkpoint: Path,
    folder: Path,
    shape: ModelShape,
    dtype: torch.dtype | None,
    fill: Fill,
    console: Console,
) -> None:
    """Both models in float32 on the CPU, one after the other, and both with the weights that `dtype` left."""
    parameters = sum(rule.numel for rule in rules(shape))
    needed, free = parameters * 4 * 2.5, psutil.virtual_memory().available
    if needed > free:
        say(
            console,
            f"logits: not compared; both models in float32 take about {needed / MB:.0f} MB, and "
            f"{free / MB:.0f} MB are free",
        )
        return
    say(console, f"logits: comparing {PROMPT_LENGTH} random tokens with transformers, in float32 ...")
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, shape.vocab_size, (1, PROMPT_LENGTH), generator=generator)
    theirs = _transformers_logits(folder, prompt, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CUDA extensions that are not there, of what torch will rename
        ours = _megatron_logits(checkpoint, shape, prompt, dtype, fill)[..., : theirs.shape[-1]]
    apart, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    if not apart <= LOGITS_TOLERANCE * max(1.0, largest):
        raise ConversionDiffers(
            f"verify: logits differ by {apart:.2g}, the largest of them being {largest:.3g}"
        )
    say(console, f"logits: the same to {apart:.2g}, the largest of them being {largest:.3g}")


@torch.no_grad()
def _transformers_logits(folder: Path, prompt: Tensor, dtype: torch.dtype | None) -> Tensor:
    """[b, s, V], float32."""
    from transformers import AutoModelForCausalLM  # takes seconds, and only --verify needs it
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    _round_weights(model, dtype)
    return model.eval()(prompt).logits


@torch.no_grad()
def _megatron_logits(
    checkpoint: Path, shape: ModelShape, prompt: Tensor, dtype: torch.dtype | None, fill: Fill
) -> Tensor:
    """[b, s, padded V], float32."""
    from paced_megatron.models.gpt import build_model
    from paced_megatron.runtime.world import job_of_one, parallel_groups

    with job_of_one():
        model = build_model(shape, parallel_groups(1, seed=0), torch.float32)
        fill(model, find_checkpoint(checkpoint), shape)
        _round_weights(model, dtype)
        hidden = model(prompt, torch.arange(prompt.shape[1]).expand_as(prompt), None)
        return (hidden @ model.head.t()).transpose(0, 1)


def _filled_by_megatron(model: HiddenStatesModel, folder: Path, shape: ModelShape) -> None:
    """The sterner test, for a checkpoint of our own."""
    from megatron.core import dist_checkpointing

    content = dist_checkpointing.load_content_metadata(str(folder))
    wanted = {"model": model.sharded_state_dict(metadata=content)}
    model.load_state_dict(dist_checkpointing.load(wanted, str(folder))["model"])


def _filled_by_us(model: HiddenStatesModel, folder: Path, shape: ModelShape) -> None:
    """For a checkpoint from elsewhere: Megatron's loader would run the pickles in it."""
    stored, parameters = Checkpoint(folder), dict(model.named_parameters())
    for rule, place in find_tensors(stored, shape):
        parameter = parameters.pop(rule.megatron)
        parameter.copy_(place.parameter(stored)[: parameter.shape[0]])  # without padding of the vocabulary
    assert not parameters, f"parameters that the map does not fill: {sorted(parameters)}"


def _round_weights(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
    if dtype is not None:
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
