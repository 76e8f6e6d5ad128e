"""Lets SGLang's build for CUDA serve on a machine without a GPU.

SGLang imports GPU packages at the top of many modules, whether or not they will be used. This module gives
those imports something to succeed with, and changes two functions that do run. Python imports `sitecustomize`
at the start of each interpreter that has this folder on its PYTHONPATH, so the processes that the server
starts have it too. It does nothing unless SGLANG_USE_CPU_ENGINE=1.

A package that is really installed is never replaced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, FunctionType, ModuleType
from typing import Any

# Package that has a stand-in, and who asks for it.
STAND_INS = {
    "sgl_kernel": "SGLang's CUDA kernels; the CPU's path imports one name of them and calls none",
    "soundfile": "the endpoints for audio",
    "torchvision": "processors of images",
    "triton": "kernels all over sglang.srt, decorated on import and never launched on a CPU",
}


class StandInClass:
    """Base of what a capitalised name of a stand-in gives: can be called, subclassed and subscripted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class StandInKernel:
    """What a decorator such as triton.jit gives: has a name and takes a grid, and refuses to run."""

    def __init__(self, function: FunctionType) -> None:
        self.fn = function
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: Any) -> StandInKernel:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"no GPU here, and the GPU kernel {self.__name__} was called")


class StandIn(ModuleType):
    """A module that has every name: a class where it is capitalised, a stand-in below this one otherwise.

    Lower-case names are used as functions too, and in annotations: a stand-in can be called, subscripted and
    joined with |.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__file__ = __file__
        self.__version__ = "3.7.0"  # triton's: it is compared on import

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        value: Any
        if name[:1].isupper():
            value = type(name, (StandInClass,), {"__module__": self.__name__})
        else:
            value = sys.modules.setdefault(full, StandIn(full))
            if value.__spec__ is None:
                value.__spec__ = ModuleSpec(full, STAND_IN_FINDER, is_package=True)
        setattr(self, name, value)
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a decorator, without arguments (`@triton.jit`) or with (`@triton.autotune(configs=...)`)."""
        if len(args) == 1 and not kwargs:
            decorated = args[0]
            if isinstance(decorated, FunctionType):
                return StandInKernel(decorated)
            if callable(decorated) and not isinstance(decorated, StandIn):
                return decorated
        return lambda decorated: decorated

    def __getitem__(self, item: Any) -> StandIn:
        return self

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__

    def __bool__(self) -> bool:
        return False


class StandInFinder(MetaPathFinder, Loader):
    """Answers `import` for the packages in STAND_INS; to the question whether one is installed it says no.

    transformers asks importlib.util.find_spec, believes it, and would go on to use torchvision.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in STAND_INS or self._only_asked():
            return None
        return ModuleSpec(fullname, self, is_package=True)

    @staticmethod
    def _only_asked() -> bool:
        """Whether importlib.util.find_spec is nearer up the stack than an import."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "_find_and_load":
                return False
            if code.co_name == "find_spec" and "importlib.util" in code.co_filename:
                return True
            frame = frame.f_back
        return False

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_batch_invariance_off(module: Any) -> None:
    """Deterministic mode, which seeds need, would also install GPU matmuls, and raises on a CPU."""
    module.enable_batch_invariant_mode = lambda *args, **kwargs: None


def hash_in_torch(module: Any) -> None:
    """The hash from which seeded sampling draws is an op of sgl_kernel. This is MurmurHash3 (x86, 32 bits) of
    seed, position and column, but it was not compared with that op: seeded tokens are not those of a GPU.
    """
    import torch
    from torch import Tensor

    mask = 0xFFFFFFFF

    def times(x: Tensor, factor: int) -> Tensor:  # modulo 2**32, in halves: int64 would overflow
        return (x * (factor & 0xFFFF) + ((x * (factor >> 16) & 0xFFFF) << 16)) & mask

    def rotated(x: Tensor, bits: int) -> Tensor:
        return (x << bits | x >> (32 - bits)) & mask

    def murmur_hash32(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
        """Hashes [batch, columns] in int64, from seeds and positions [batch] and columns [columns]."""
        seed = seed.view(torch.int64) if seed.dtype == torch.uint64 else seed.long()
        rows, columns = seed[:, None], col_indices.long()[None, :]
        state = torch.zeros(len(seed), len(col_indices), dtype=torch.int64)
        for block in (rows & mask, rows >> 32 & mask, positions.long()[:, None], columns):
            scrambled = times(rotated(times(block & mask, 0xCC9E2D51), 15), 0x1B873593)
            state = (times(rotated(state ^ scrambled, 13), 5) + 0xE6546B64) & mask
        state = state ^ 16  # bytes hashed
        state = times(state ^ state >> 16, 0x85EBCA6B)
        state = times(state ^ state >> 13, 0xC2B2AE35)
        return state ^ state >> 16

    module.murmur_hash32 = murmur_hash32


# Module of SGLang, and what changes it once it has been imported.
PATCHES: dict[str, Callable[[Any], None]] = {
    "sglang.srt.batch_invariant_ops": leave_batch_invariance_off,
    "sglang.kernels.ops.sampling.murmur_hash": hash_in_torch,
}


class PatchFinder(MetaPathFinder):
    """Finds the modules in PATCHES as usual, and patches them when they have run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in PATCHES else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_patch(module: ModuleType) -> None:
            run(module)
            PATCHES[fullname](module)

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


STAND_IN_FINDER = StandInFinder()
if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    sys.meta_path.insert(0, PatchFinder())
    sys.meta_path.append(STAND_IN_FINDER)  # last, so that a real package is found first
