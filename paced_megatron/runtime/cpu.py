"""Megatron-Core on the CPU, under gloo.

Megatron-Core asks for CUDA in a few dozen places: literals such as `device="cuda"`,
`torch.cuda.current_device()`, checks of `tensor.type()`, the CUDA random generators, streams.
`megatron_on_cpu` answers each of them with the CPU for as long as it is entered, and puts everything back
afterwards. Found by running 0.16.1 (Python 3.11) and 0.19.2 (Python 3.12).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def _names_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _CudaMeansCpu(TorchFunctionMode):
    """Rewrites every device argument that says CUDA, and answers `Tensor.type()` with the CUDA name that is
    asserted on."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        if any(_names_cuda(argument) for argument in args):
            args = tuple(CPU if _names_cuda(argument) else argument for argument in args)
        return func(*args, **kwargs)


class _NoStream:
    """Stands in for a CUDA stream or event: on the CPU work is done when the call returns, so there is
    nothing to wait for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> _NoStream:
        return self

    def record(self, stream: Any = None) -> None:
        pass

    def wait(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class _NoEvent(_NoStream):
    pass


def _run_backward(
    *args: Any, _original: Callable[..., Any] = torch.autograd._engine_run_backward, **kwargs: Any
) -> Any:
    """A mode is off within the call that it is asked about, also where that is `backward`: activations that
    are computed again there ask for CUDA too."""
    with _CudaMeansCpu():
        return _original(*args, **kwargs)


def _nothing() -> Callable[..., None]:
    return lambda *args, **kwargs: None


# Each answer is an object of its own: torch's compiler, which Megatron calls while it is imported, takes
# stock of torch.cuda and doesn't bear one object under two names.
_CUDA_ANSWERS: dict[str, Any] = {
    "current_device": lambda: CPU,
    "set_device": _nothing(),
    "synchronize": _nothing(),
    "empty_cache": _nothing(),
    "Stream": _NoStream,
    "Event": _NoEvent,
    "current_stream": lambda *args: _NoStream(),
    "default_stream": lambda *args: _NoStream(),
    "stream": lambda *args: contextlib.nullcontext(),
    "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
    "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
    "manual_seed": lambda seed: torch.manual_seed(seed),
}


@contextlib.contextmanager
def megatron_on_cpu() -> Iterator[None]:
    """Within it, Megatron-Core's requests for CUDA are served by the CPU."""
    from megatron.core.tensor_parallel import random as megatron_random

    with contextlib.ExitStack() as patches:
        for name, answer in _CUDA_ANSWERS.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, answer))
        # Megatron's tracker of random states reads CUDA's generator through functions of its own.
        patches.enter_context(
            mock.patch.object(
                megatron_random, "_get_cuda_rng_state", lambda *args, **kwargs: torch.get_rng_state()
            )
        )
        patches.enter_context(
            mock.patch.object(
                megatron_random,
                "_set_cuda_rng_state",
                lambda state, *args, **kwargs: torch.set_rng_state(state),
            )
        )
        patches.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", _run_backward))
        patches.enter_context(_CudaMeansCpu())
        yield
