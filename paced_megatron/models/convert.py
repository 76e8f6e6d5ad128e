"""A Hugging Face folder as a Megatron distributed checkpoint, and back, without building a model.

Both directions walk the map (`mapping.py`) rule by rule, hold one layer's tensors at most, and leave a whole
folder or none. `commands/convert.py` is the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.models.checkpoint_metadata import TRACKER, find_checkpoint
from paced_megatron.models.distributed_checkpoint import Checkpoint, Piece, write_checkpoint
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.models.hf_writer import MAX_SHARD_SIZE, copy_companions, fill_folder, rounded
from paced_megatron.models.mapping import Cut, Rule, hugging_face_shapes, rules
from paced_megatron.models.megatron_args import common_state, empty_objects
from paced_megatron.models.output import MB, check_output, output_folder
from paced_megatron.models.weight_files import WeightFiles, check_weights
from paced_megatron.progress import track

RELEASE = "release"  # what Megatron calls a checkpoint of weights alone; its folder's name
HUGGING_FACE = "hugging_face"  # within our checkpoints: the source's config.json and tokenizer

Check = Callable[[Path], None]
"""Looks at the finished folder before it gets its name, and raises where something is wrong."""


def to_megatron(
    source: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    check: Check | None = None,
    console: Console | None = None,
) -> None:
    """Write a Hugging Face folder as a Megatron checkpoint that any layout can load.

    Args:
        source: the folder; its weights are safetensors.
        out: the checkpoint to be, which Megatron's `--load` takes.
        dtype: of the weights; None keeps each as it is.
        replace: allow `out` to be there already, if it is a model.
        check: called with the finished folder before it becomes `out`.
        console: where progress is shown.

    Raises:
        UserError: the source isn't a model that the map knows, whole and readable; two of its dtypes would
            have to share a tensor, and `dtype` is None; `out` can't be written.
    """
    shape = model_shape(source)
    check_weights(source, shape)
    files, cut = WeightFiles(source), Cut(shape, 1)
    if dtype is None:
        _check_dtypes(files, rules(shape))

    def dtype_of(rule: Rule) -> torch.dtype:
        return dtype or files.dtype(next(iter(rule.hugging_face)))

    def piece(rule: Rule, advance: Callable[[int], None]) -> Piece:
        def make() -> Tensor:
            # Mapped anew: what was read for one piece is not kept for the next.
            mapped = WeightFiles(source)
            tensor = rounded(
                rule.shard([mapped[name] for name in rule.hugging_face], cut, 0),
                dtype_of(rule),
                min(rule.hugging_face),
            )
            advance(tensor.nbytes)
            return tensor

        size = megatron_shape(rule, cut)
        stacked = size if rule.layer is None else (shape.num_layers, *size)
        return Piece(rule.checkpoint, stacked, dtype_of(rule), rule.layer, make)

    every = rules(shape)
    total = sum(rule.numel * dtype_of(rule).itemsize for rule in every)
    check_output(out, source, replace=replace, needed_bytes=total)
    with output_folder(out, replace=replace) as folder:
        (folder / RELEASE).mkdir()
        with shown_in_mb("to Megatron", total, console) as advance:
            write_checkpoint(
                folder / RELEASE,
                [[piece(rule, advance) for rule in group] for group in _by_file(every)],
                empty_objects(shape),
                common_state(shape, dtype_of(every[0])),
            )
        (folder / HUGGING_FACE).mkdir()
        copy_companions(source, folder / HUGGING_FACE)
        (folder / TRACKER).write_text(RELEASE)
        if check is not None:
            check(folder)


def to_hugging_face(
    checkpoint: Path,
    out: Path,
    *,
    source: Path | None = None,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
    check: Check | None = None,
    console: Console | None = None,
) -> None:
    """Write a Megatron distributed checkpoint, saved at any layout, as a Hugging Face folder.

    Args:
        checkpoint: what `--load` takes, or the folder of one iteration in it.
        out: the folder to be.
        source: a Hugging Face folder of the same architecture, for config.json and the tokenizer; None: the
            one that `to_megatron` left in the checkpoint.
        dtype, replace, check, console: as for `to_megatron`.

    Raises:
        UserError: the checkpoint isn't torch_dist, is damaged, or its tensors are not those that config.json
            asks for; `out` can't be written.
    """
    stored, source = open_checkpoint(checkpoint, source)
    shape = model_shape(source)
    places = find_tensors(stored, shape)
    total = sum(rule.numel * (dtype or stored.dtype(place.keys[0])).itemsize for rule, place in places)
    check_output(out, checkpoint, replace=replace, needed_bytes=total)
    check_output(out, source, replace=replace)

    def tensors(advance: Callable[[int], None]) -> Iterator[tuple[str, Tensor]]:
        for rule, place in places:
            for name, tensor in place.merged(stored, rule, shape).items():
                yield name, tensor
                advance(tensor.numel() * (dtype or tensor.dtype).itemsize)

    with output_folder(out, replace=replace) as folder:
        with shown_in_mb("to Hugging Face", total, console) as advance:
            fill_folder(
                folder,
                tensors(advance),
                shapes=hugging_face_shapes(shape),
                source=source,
                dtype=dtype,
                max_shard_size=max_shard_size,
            )
        if check is not None:
            check(folder)


def _check_dtypes(files: WeightFiles, every: Sequence[Rule]) -> None:
    """Raise UserError where tensors that the checkpoint has in one, fused or stacked, differ in dtype: it has
    one dtype, so that some would be rounded."""
    first: dict[str, str] = {}
    for rule in every:
        for name in rule.hugging_face:
            other = first.setdefault(rule.checkpoint, name)
            if files.dtype(name) != files.dtype(other):
                raise UserError(
                    f"{files.folder}: tensor {other} is {files.part_of(other).dtype} and {name} is "
                    f"{files.part_of(name).dtype}, and a checkpoint has them in one tensor; pass --dtype"
                )


def open_checkpoint(checkpoint: Path, source: Path | None) -> tuple[Checkpoint, Path]:
    """The checkpoint, and the folder with its config.json."""
    folder = find_checkpoint(checkpoint)
    if source is None:
        source = folder.parent / HUGGING_FACE
        if not source.is_dir():
            raise UserError(
                f"{checkpoint}: doesn't say which model it is; name a Hugging Face folder of the same "
                "architecture with --source, for config.json and the tokenizer"
            )
    return Checkpoint(folder), source


@dataclass(frozen=True)
class Place:
    """Where a checkpoint has a rule's parameter.

    Attributes:
        keys: one, or two whose tensors stand on one another (gate and up, saved apart).
        layer: its place in a stack of layers; None where the tensor is saved by itself.
    """

    keys: tuple[str, ...]
    layer: int | None

    def parameter(self, stored: Checkpoint) -> Tensor:
        """Megatron's parameter, whole. It lies in the checkpoint's scratch memory, and is gone with the next
        call."""
        stored.scratch.clear()
        parts = [stored.read(key, self.layer) for key in self.keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def merged(self, stored: Checkpoint, rule: Rule, shape: ModelShape) -> dict[str, Tensor]:
        """The Hugging Face tensors of the rule, by name; gone with the next call, as well."""
        return rule.merge([self.parameter(stored)], Cut(shape, 1))


# How the same keys begin where a model was saved inside of something else.
_PREFIXES = ("", "model.", "module.", "model.module.")
_MODELS_OWN = ("embedding.", "decoder.", "output_layer.", "mtp.", "encoder.", "vision_model.")


def find_tensors(stored: Checkpoint, shape: ModelShape) -> list[tuple[Rule, Place]]:
    """Where each rule's parameter lies; the optimizer's tensors and the like are left alone.

    Raises:
        UserError: a tensor is missing, has no place in the map, has another shape than config.json says, is
            no floating-point number, or its file isn't there.
    """
    final = "decoder.final_layernorm.weight"
    prefix = next((prefix for prefix in _PREFIXES if prefix + final in stored.shapes), "")
    places = [(rule, _place(stored, prefix, rule, shape)) for rule in rules(shape)]
    used = {key for _, place in places for key in place.keys}
    own = tuple(prefix + start for start in _MODELS_OWN)
    for key in sorted(stored.shapes.keys() - used):
        if key.startswith(own):
            raise UserError(f"{stored.folder}: tensor {key} has no place in the map of this config.json")
    stored.check_files(sorted(used))
    return places


def _place(stored: Checkpoint, prefix: str, rule: Rule, shape: ModelShape) -> Place:
    stacked = prefix + rule.checkpoint
    by_itself = [prefix + rule.transformer_engine, prefix + rule.megatron]
    choices = [Place((stacked,), rule.layer)] if rule.layer is not None else []
    choices += [Place((key,), None) for key in by_itself]
    choices += [Place((f"{key}_w", f"{key}_v"), None) for key in by_itself if rule.layout == "gate_up"]
    place = next((choice for choice in choices if stored.shapes.keys() >= set(choice.keys)), None)
    if place is None:
        raise UserError(f"{stored.folder}: tensor {stacked} is missing, which config.json asks for")
    whole = megatron_shape(rule, Cut(shape, 1))
    wanted = (whole[0] // len(place.keys), *whole[1:])
    if place.layer is not None:
        wanted = (shape.num_layers, *wanted)
    for key in place.keys:
        found = stored.shapes[key]
        padded = rule.layout == "vocabulary" and found[0] >= wanted[0] and found[1:] == wanted[1:]
        if found != wanted and not padded:
            raise UserError(
                f"{stored.folder}: tensor {key} has shape {list(found)}, but config.json says {list(wanted)}"
            )
        if not stored.dtype(key).is_floating_point or stored.dtype(key).itemsize == 1:
            raise UserError(
                f"{stored.folder}: tensor {key} is {stored.dtype(key)}; only unquantised ones are read"
            )
    return place


def megatron_shape(rule: Rule, cut: Cut, rank: int = 0) -> tuple[int, ...]:
    """The shape of the rule's Megatron parameter on a tensor-parallel rank; no memory is used."""
    tensors = [torch.empty(size, device="meta") for size in rule.hugging_face.values()]
    return tuple(rule.shard(tensors, cut, rank).shape)


def _by_file(every: Sequence[Rule]) -> list[list[Rule]]:
    """A file for each layer, one for what comes before them and one for what comes after."""
    groups: list[list[Rule]] = []
    for rule in every:
        if not groups or groups[-1][0].layer != rule.layer:
            groups.append([])
        groups[-1].append(rule)
    return groups


@contextmanager
def shown_in_mb(what: str, total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    """Progress in whole MB, of `total` bytes; gives what is to be called with the bytes that are done."""
    done = 0
    with track(what, total=-(-total // MB), unit="MB", console=console) as bar:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            bar.advance(-(-done // MB) - bar.done)

        yield advance
