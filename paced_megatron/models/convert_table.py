"""The map of one model as a table, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from paced_megatron.models.convert import megatron_shape
from paced_megatron.models.families import ModelShape
from paced_megatron.models.mapping import Cut, Rule, rules

HEADINGS = ("Hugging Face", "shape", "Megatron", "shape on each rank", "ranks")


@dataclass(frozen=True)
class Row:
    """A Hugging Face tensor and the Megatron parameter that it goes into.

    Attributes:
        megatron: the key in the checkpoint, with the layer's number where layers are stacked.
        megatron_shape: of the parameter on each of `ranks`, which may be made of several tensors.
    """

    hugging_face: str
    hugging_face_shape: tuple[int, ...]
    megatron: str
    megatron_shape: tuple[int, ...]
    ranks: tuple[int, ...]


def map_rows(shape: ModelShape, tp: int, pp: int) -> Iterator[Row]:
    """The map, a row per Hugging Face tensor, at a layout that divides the model.

    Ranks are those of one replica in Megatron's order: tensor-parallel neighbours first, then the stages.
    """
    for rule in rules(shape):
        ranks = tuple(stage * tp + rank for stage in _stages(rule, shape, pp) for rank in range(tp))
        key = rule.checkpoint if rule.layer is None else f"{rule.checkpoint}[{rule.layer}]"
        for name, size in rule.hugging_face.items():
            yield Row(name, size, key, megatron_shape(rule, Cut(shape, tp)), ranks)


def _stages(rule: Rule, shape: ModelShape, pp: int) -> list[int]:
    if rule.layer is not None:
        return [rule.layer // (shape.num_layers // pp)]
    first, last = 0, pp - 1
    if not rule.checkpoint.startswith("embedding."):
        return [last]
    # A tied head is a copy of the embedding on the last stage.
    return sorted({first, last}) if shape.tied else [first]


def print_map(shape: ModelShape, tp: int, pp: int) -> None:
    """The table, in lines that grep and cut can work on, and the sums below."""
    rows = list(map_rows(shape, tp, pp))
    lines = [
        (
            row.hugging_face,
            _by(row.hugging_face_shape),
            row.megatron,
            _by(row.megatron_shape),
            _runs(row.ranks),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
    for line in (HEADINGS, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    parameters = sum(prod(row.hugging_face_shape) for row in rows)
    held: dict[int, dict[str, int]] = {rank: {} for rank in range(tp * pp)}
    for row in rows:
        for rank in row.ranks:
            held[rank][row.megatron] = prod(row.megatron_shape)
    most = max(sum(sizes.values()) for sizes in held.values())
    print(
        f"\n{len(rows)} tensors, {parameters:,} parameters; with tensor_model_parallel_size={tp} and "
        f"pipeline_model_parallel_size={pp} a rank holds {most:,} of them at most. Nothing was written."
    )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _runs(ranks: tuple[int, ...]) -> str:
    """As in "0-3" or "0-1, 6-7"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
