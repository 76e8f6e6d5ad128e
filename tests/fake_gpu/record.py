"""What is noted of a step on the GPU that isn't there (device.py)."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class MixedDevices(RuntimeError):
    """An operation was given tensors of the host and of the device."""


class HostTensorSent(RuntimeError):
    """A collective was given a tensor that NCCL can't send."""


@dataclass(frozen=True, order=True)
class Wait:
    """The host waits for all that the device has been given to do.

    Attributes:
        kind: `read` (from the device), `write` (to the device without non_blocking), `synchronize`.
        place: file and function that asked, in paced_megatron or else in Megatron, or else in torch.
    """

    kind: str
    place: str


@dataclass
class FakeGpu:
    """What was noted.

    Attributes:
        waits: in their order.
        pageable: places that sent memory to the device that is not pinned.
        collectives: how often each was called.
        live, peak: bytes of all tensors on the device, now and at most.
        sent_shape: [s, b, H] of what this stage of a pipeline is sent, where the stages tell each other.
    """

    waits: list[Wait] = field(default_factory=list)
    pageable: list[str] = field(default_factory=list)
    collectives: Counter[str] = field(default_factory=Counter)
    live: int = 0
    peak: int = 0
    sent_shape: tuple[int, int, int] | None = None

    def forget(self) -> None:
        """What was noted so far; the peak begins again at what is alive."""
        self.waits.clear()
        self.pageable.clear()
        self.collectives.clear()
        self.peak = self.live

    def wait(self, kind: str) -> None:
        self.waits.append(Wait(kind, place_of_call()))


def place_of_call() -> str:
    """The innermost caller in a package whose places are looked at; its file and function."""
    found: dict[str, str] = {}
    frame: Any = sys._getframe(1)
    while frame is not None:
        parts = Path(frame.f_code.co_filename).parts
        for package in ("paced_megatron", "megatron", "torch"):
            # A folder of a checkout can have a package's name: the last one is the package.
            if package in parts and package not in found and "tests" not in parts:
                start = len(parts) - 1 - parts[::-1].index(package)
                found[package] = f"{'/'.join(parts[start:])}:{frame.f_code.co_qualname.split('.')[-1]}"
        if {"paced_megatron", "megatron"} & set(found):
            break
        frame = frame.f_back
    return next((found[name] for name in ("paced_megatron", "megatron", "torch") if name in found), "a test")
