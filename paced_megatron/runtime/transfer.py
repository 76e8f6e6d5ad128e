"""From the host to the device without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, made on the host, on `device`, in the same shape and dtype.

    A plain `.to(device)` waits until a GPU has done all that it was given before, so that the next kernels
    reach it late. From pinned memory the copy takes its place in the stream; torch keeps that memory until
    it is done.
    """
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
