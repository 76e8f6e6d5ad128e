"""Tensors that leave the device for host memory and come back bit-equal.

A teacher that slept and woke without its weights trains a student for a whole run before anybody looks, for
its loss is a plausible number. So a sum over all bits is taken before, and compared after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


def _as_bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _sum_of_bits(content: Tensor) -> Tensor:
    """The bytes [n], taken as int64 and added up modulo 2^64."""
    whole = content.numel() // 8 * 8
    return content[:whole].view(torch.int64).sum() + content[whole:].sum(dtype=torch.int64)


def _storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    """The memory behind the tensors, each piece once: views stay views of it while it is away."""
    found = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return [storage for storage in found.values() if storage.nbytes()]


class Sleeper:
    """Moves the memory behind some tensors to the host and back. The tensors themselves stay where they are,
    empty: nothing may touch them in between.

    On a machine without a GPU the "device" is host memory too: then the content moves within it.

    Args:
        name: for the messages.
        tensors: called each time, since an optimizer's state comes into being with its first step.
        frozen: nothing writes to them, so that one copy to the host, kept, is enough.
    """

    def __init__(self, name: str, tensors: Callable[[], Iterable[Tensor]], *, frozen: bool = False) -> None:
        self.name = name
        self.asleep = False
        self._tensors, self._frozen = tensors, frozen
        self._storages: list[torch.UntypedStorage] = []
        self._hosts: list[Tensor] = []
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def sleep(self) -> None:
        """Free the device's memory. Does nothing when asleep."""
        if self.asleep:
            return
        if not (self._frozen and self._hosts):
            self._storages = _storages(self._tensors())
            contents = [_as_bytes(storage) for storage in self._storages]
            self._sums = [_sum_of_bits(content) for content in contents]
            self._hosts = [
                torch.empty(content.shape, dtype=torch.uint8, pin_memory=content.is_cuda)
                for content in contents
            ]
            for host, content in zip(self._hosts, contents, strict=True):
                host.copy_(content, non_blocking=True)
            if any(content.is_cuda for content in contents):
                torch.cuda.synchronize()
            del contents
        for storage in self._storages:
            storage.resize_(0)
        self.asleep = True

    @torch.no_grad()
    def wake(self) -> None:
        """Bring everything back. Does nothing when awake.

        Raises:
            RuntimeError: what came back is not what went to sleep.
        """
        if not self.asleep:
            return
        for storage, host in zip(self._storages, self._hosts, strict=True):
            storage.resize_(host.numel())
            _as_bytes(storage).copy_(host, non_blocking=True)
        back = [_sum_of_bits(_as_bytes(storage)) for storage in self._storages]
        if back and not torch.equal(torch.stack(back), torch.stack(self._sums)):
            raise RuntimeError(f"{self.name}: the weights that woke are not those that went to sleep")
        if not self._frozen:
            self._storages, self._hosts, self._sums = [], [], []
        self.asleep = False

    def check_awake(self) -> None:
        """Raises RuntimeError when asleep: memory that is away must not be read."""
        if self.asleep:
            raise RuntimeError(f"{self.name}: asleep; wake it first")


def optimizer_state(optimizer: Any, model: Sequence[torch.nn.Module]) -> Iterator[Tensor]:
    """What a Megatron optimizer holds beside the model's own memory: moments, and float32 main weights.

    Args:
        optimizer: Megatron's, one or a chain of them.
        model: whose parameters, which an optimizer of float32 weights works on themselves, are left out.
    """
    models = {parameter.untyped_storage().data_ptr() for chunk in model for parameter in chunk.parameters()}
    on = next(parameter.device for chunk in model for parameter in chunk.parameters())
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = part.optimizer
        states = (value for state in inner.state.values() for value in state.values())
        weights = (weight for group in inner.param_groups for weight in group["params"])
        for tensor in (*states, *weights):
            if not isinstance(tensor, Tensor) or tensor.device != on:
                continue  # counters of steps, which are on the host
            if tensor.untyped_storage().data_ptr() not in models:
                yield tensor


@contextmanager
def asleep(*sleepers: Sleeper) -> Iterator[None]:
    """Within it, all of them sleep; those that slept before sleep on."""
    with ExitStack() as stack:
        for sleeper in sleepers:
            if not sleeper.asleep:
                sleeper.sleep()
                stack.callback(sleeper.wake)
        yield
