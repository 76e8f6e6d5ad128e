"""The rotary embedding: which kinds a config.json may ask for, and their frequencies.

Megatron-Core has Llama-3's scaling too, but with fixed factors and a fixed original length; so the
frequencies are worked out here and set on its module (`gpt.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paced_megatron.errors import UserError


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's stretch of the rotary embedding, in config.json's own words.

    Attributes:
        factor: waves longer than `original_max_position_embeddings / low_freq_factor` turn this much slower.
        low_freq_factor, high_freq_factor: waves shorter than `original_max_position_embeddings /
            high_freq_factor` are left alone; those between are interpolated.
        original_max_position_embeddings: the length of text that the model was first trained on.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


def unscaled_frequencies(rope_theta: float, head_dim: int) -> Tensor:
    """theta^(-2i/d) for i in 0 .. d/2 - 1, float32 [head_dim / 2], as transformers rounds it."""
    return 1.0 / (rope_theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim))


def llama3_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama-3.1's stretched frequencies, float32 [head_dim / 2].

    Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py, in its order of operations.
    """
    length, low, high = (
        scaling.original_max_position_embeddings,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    )
    wavelength = 2 * math.pi / frequencies
    kept = (length / wavelength - low) / (
        high - low
    )  # 0 at the longest wave that is mixed, 1 at the shortest
    mixed = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    return torch.where(
        wavelength > length / low,
        frequencies / scaling.factor,
        torch.where(wavelength < length / high, frequencies, mixed),
    )


_LLAMA3_FIELDS = tuple(RopeScaling.__dataclass_fields__)


def _llama3(rope: Mapping[str, Any], where: str) -> RopeScaling:
    values: dict[str, Any] = {}
    for name in _LLAMA3_FIELDS:
        value = rope.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{where}.{name}={value!r}: rope type llama3 needs a number above 0 here")
        values[name] = value
    if values["high_freq_factor"] <= values["low_freq_factor"]:
        raise UserError(f"{where}.high_freq_factor has to be above low_freq_factor")
    return RopeScaling(**values)


# By rope_type: what reads its scaling. A new kind is a row here and its frequencies above.
ROPE_TYPES: dict[str, Callable[[Mapping[str, Any], str], RopeScaling | None]] = {
    "default": lambda rope, where: None,
    "llama3": _llama3,
}
_OWN_FIELDS = {"default": (), "llama3": _LLAMA3_FIELDS}


def read_rope(config: Mapping[str, Any], path: Path) -> tuple[float, RopeScaling | None]:
    """(rope_theta, scaling) of a config.json.

    transformers 5 writes everything into `rope_parameters`; older files have `rope_theta` at the top and the
    rest in `rope_scaling`, with the type as `type` in the oldest.

    Raises:
        UserError: another type of rope, a field of it that is not known, or two places that disagree.
    """
    places = [name for name in ("rope_parameters", "rope_scaling") if config.get(name)]
    if len(places) == 2 and config[places[0]] != config[places[1]]:
        raise UserError(f"{path}: rope_parameters and rope_scaling disagree; keep the right one")
    place = places[0] if places else "rope_parameters"
    where, rope = f"{path}: {place}", config.get(place) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}={rope!r} has to be a section of keys")
    # As text: whatever else stands there can't be looked up in a table.
    kinds = {str(rope[name]) for name in ("rope_type", "type") if rope.get(name)} or {"default"}
    kind = min(kinds)
    if len(kinds) > 1 or kind not in ROPE_TYPES:
        raise UserError(
            f"{where}.rope_type={kind!r} is not supported (known: {', '.join(sorted(ROPE_TYPES))})"
        )
    known = {"rope_type", "type", "rope_theta", *_OWN_FIELDS[kind]}
    # The whole head turns: what a factor of 1 says too.
    unknown = {
        name
        for name, value in rope.items()
        if name not in known and value is not None and (name, value) != ("partial_rotary_factor", 1.0)
    }
    if unknown:
        name = min(unknown)
        raise UserError(f"{where}.{name}={rope[name]!r} is not supported with rope type {kind!r}")
    return _read_theta(config, rope, path), ROPE_TYPES[kind](rope, where)


def _read_theta(config: Mapping[str, Any], rope: Mapping[str, Any], path: Path) -> float:
    values = [place["rope_theta"] for place in (rope, config) if place.get("rope_theta") is not None]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"{path}: rope_theta={value!r} has to be a number above 0")
    found = {float(value) for value in values}
    if not found:
        raise UserError(f"{path}: rope_theta is missing")
    if len(found) > 1:
        raise UserError(f"{path}: rope_theta is {min(found):g} in one place and {max(found):g} in another")
    return found.pop()
