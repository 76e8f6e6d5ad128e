"""A GPU that isn't there: real code runs on tensors that say they are on cuda:0, and every wait is noted.

Why a stand-in: no GPU is at hand where the tests run, and what breaks on one (a tensor left on the host, a
host tensor given to NCCL, a step that waits for the device in the middle) is known from devices and shapes
alone, without any number. "cuda" is torch's meta device here, which has shapes and dtypes and no content, so
that sizes are free: a step of real size is walked in seconds. torch's FakeTensorMode would do the same, but
autograd asks CUDA's driver as soon as there is a backward pass, and it needs torch's CUDA build.

It can't tell whether a number is right: for that there are the tests on the CPU and those on a real GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fake_gpu.record import FakeGpu
from fake_gpu.watch import META, Pins, Watch

CUDA = torch.device("cuda", 0)


def _on_device(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return tensor.device.type == "meta"


def _means_cuda(device: Any) -> bool:
    return (
        (isinstance(device, str) and device.startswith("cuda"))
        or (isinstance(device, torch.device) and device.type == "cuda")
        or (isinstance(device, int) and not isinstance(device, bool))
    )


_GETTERS: dict[Any, Callable[[Tensor], Any]] = {
    torch.Tensor.device.__get__: lambda tensor: CUDA,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda tensor: True,  # type: ignore[attr-defined]
    torch.Tensor.is_meta.__get__: lambda tensor: False,  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda tensor: 0,
    torch.Tensor.data_ptr: lambda tensor: (
        tensor.untyped_storage()._cdata * 64 + tensor.storage_offset() * tensor.itemsize
    ),
    torch.Tensor.record_stream: lambda tensor, stream: None,
}


def _read(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_read(entry) for entry in data]
    return data.item() if isinstance(data, Tensor) and data.dim() == 0 and _on_device(data) else data


class _CudaIsMeta(TorchFunctionMode):
    """Rewrites device arguments, and answers what a tensor says of itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and _on_device(args[0]):
            if func in _GETTERS:
                return _GETTERS[func](*args)
            if func is torch.Tensor.type and len(args) == 1:
                return f"torch.cuda.{func(args[0].new_empty(0, device='cpu')).removeprefix('torch.')}"
        if func is torch.Tensor.cuda:
            return args[0].to(META, **{k: v for k, v in kwargs.items() if k == "non_blocking"})
        if func is torch.tensor:
            args = (_read(args[0]), *args[1:])  # torch asks each number of a list for itself, past the modes
            if _means_cuda(kwargs.get("device")):
                grad = kwargs.pop("requires_grad", False)
                return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(META).requires_grad_(grad)
        if _means_cuda(kwargs.get("device")):
            kwargs["device"] = META
        if len(args) > 1 and func is torch.Tensor.to and _means_cuda(args[1]):
            args = (args[0], META, *args[2:])
        return func(*args, **kwargs)


def _run_backward(mode: _CudaIsMeta) -> Callable[..., Any]:
    """A mode is off within the call that it is asked about, also where that is `backward`."""
    original = torch.autograd._engine_run_backward

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return original(*args, **kwargs)

    return run


def _answers(gpu: FakeGpu) -> dict[str, Any]:
    """torch.cuda's functions that need a driver."""

    class Stream:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.cuda_stream, self.device = 0, CUDA

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

        def record_event(self, event: Any = None) -> Any:
            return event or Event()

        def synchronize(self) -> None:
            gpu.wait("synchronize")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *args: Any) -> None:
            pass

    class Event(Stream):
        def elapsed_time(self, end: Any) -> float:
            return 1.0

        def query(self) -> bool:
            return True

    stream = Stream()
    properties = SimpleNamespace(
        name="a GPU that isn't there",
        total_memory=139 * 2**30,
        major=9,
        minor=0,
        multi_processor_count=132,
        warp_size=32,
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda *args: True,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: gpu.wait("synchronize"),
        "empty_cache": lambda: None,
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda of: contextlib.nullcontext(),
        "get_rng_state": _rng_state,
        "set_rng_state": _set_rng_state,
        "manual_seed": lambda seed: None,
        "memory_allocated": lambda device=None: gpu.live,
        "max_memory_allocated": lambda device=None: gpu.peak,
    }


CUDA_RNG_BYTES = 16  # a seed and an offset; the CPU's generator has 5056


def _rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.zeros(CUDA_RNG_BYTES, dtype=torch.uint8)


def _set_rng_state(state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    if state.numel() != CUDA_RNG_BYTES:
        raise RuntimeError("RNG state is wrong size")  # CUDA's own words


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Within it torch has one GPU, without content. Nothing made in it may be used after it."""
    from megatron.core.tensor_parallel import random as megatron_random

    gpu, pins = FakeGpu(), Pins()
    mode = _CudaIsMeta()
    with contextlib.ExitStack() as patches:
        for name, answer in _answers(gpu).items():
            patches.enter_context(mock.patch.object(torch.cuda, name, answer))
        for name, answer in {
            "_get_cuda_rng_state": _rng_state,
            "_set_cuda_rng_state": _set_rng_state,
        }.items():
            patches.enter_context(mock.patch.object(megatron_random, name, answer))
        patches.enter_context(
            mock.patch.object(torch.UntypedStorage, "data_ptr", lambda storage: storage._cdata)
        )
        patches.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", _run_backward(mode)))
        watch = Watch(gpu, pins)

        def resize(storage: Any, size: int, _original: Any = torch.UntypedStorage.resize_) -> None:
            _original(storage, size)
            watch.resized(storage)

        patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resize))
        patches.enter_context(watch)
        patches.enter_context(mode)
        yield gpu
