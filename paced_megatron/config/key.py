"""What is known about a key of the configuration beside its type and default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """What is known about a key beside its type and default; the bounds are for numbers, `keys` for dicts."""

    doc: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    off: float | None = None  # one value outside the bounds that is allowed, and means "off"
    keys: tuple[str, ...] | None = None
