"""Which way the loss takes on a machine: torch or Triton for the vocabulary part, which products and walk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from paced_megatron.divergence.table import DIVERGENCES
from paced_megatron.divergence.workspace import Workspace

KERNELS = ("auto", "torch", "triton")
"""what `kernels` may be"""
CAPABILITY = (8, 0)
"""of a GPU from which on bf16 has tensor cores, and Triton is looked after"""
MIXED_PRODUCTS = (2, 11)
"""of torch from which on torch.addmm with out_dtype was found to add to a float32 tensor in place"""


@dataclass(frozen=True)
class Machine:
    """What the choice depends on and the arguments don't tell."""

    device: str
    """its type: "cuda", "cpu" """
    capability: tuple[int, int] = CAPABILITY
    no_triton: str | None = None
    """why kernels cannot run, and what to do; None: they can"""

    @staticmethod
    def of(device: torch.device) -> Machine:
        """Looks at the GPU and has Triton begin where device is one; else neither, unless it interprets."""
        if device.type != "cuda":
            nowhere = f"the tensors are on {device.type}, and kernels need a GPU"
            return Machine(device.type, no_triton=_why_no_triton(False) if _interpreted() else nowhere)
        on_cpu = "TRITON_INTERPRET=1 is set, under which kernels are interpreted on the CPU (unset it)"
        return Machine(
            "cuda",
            torch.cuda.get_device_capability(device),
            no_triton=on_cpu if _interpreted() else _why_no_triton(True),
        )


@dataclass(frozen=True)
class Path:
    """The way taken."""

    triton: bool
    """the vocabulary part is kernels/part.py, else torch_part.py"""
    tensor_cores: bool
    """the products are `matmul.TensorCores`, else `Widened`"""
    pipelined: bool
    """the next chunk's products go beside a chunk's all-gather"""
    dtype: torch.dtype
    """in which all is computed"""
    buffers: int
    """of [n, V] that are alive at once in a block, both logits included"""
    slow_because: str | None = None
    """why a GPU that could have been served with kernels is not"""

    @property
    def beside(self) -> float:
        """[n, V] numbers of a chunk beside its two logits: the bf16 gradient, the other pair of logits."""
        return 0.5 * self.tensor_cores + 2.0 * self.pipelined

    def workspace(self, megabytes: float | None, student_head: Tensor, teacher_head: Tensor) -> Workspace:
        """How its chunks are cut within so many MB: see `Workspace.of`."""
        return Workspace.of(
            megabytes,
            student_head,
            teacher_head,
            self.dtype,
            self.buffers,
            beside=self.beside,
            widened=not self.tensor_cores,
        )

    def __str__(self) -> str:
        kernels = "Triton kernels" if self.triton else "torch operations"
        width = str(self.dtype).removeprefix("torch.")
        products = "bf16 products with float32 logits" if self.tensor_cores else f"products in {width}"
        overlap = ", the next chunk's products beside each all-gather" if self.pipelined else ""
        return f"loss: {kernels}, {products}{overlap}" + (f" ({self.cost})" if self.slow_because else "")

    @property
    def cost(self) -> str:
        return f"{self.slow_because}: several passes over a chunk's logits instead of two"

    def warn(self) -> None:
        """Where a GPU takes the slower way though nobody asked for it; Python shows it once in a process."""
        if self.slow_because is not None:
            warnings.warn(f"the loss runs without Triton kernels; {self.cost}", RuntimeWarning, stacklevel=2)


def check_kernels(kernels: str, divergence: str) -> None:
    """Raises ValueError, which opens with "kernels", for an unknown one, and for Triton where the divergence
    has no kernels; both can be known before there is a machine."""
    if kernels not in KERNELS:
        raise ValueError(f"kernels: {kernels!r} is unknown; known are {', '.join(KERNELS)}")
    if kernels == "triton" and not DIVERGENCES[divergence].kernels:
        raise ValueError(f"kernels: {divergence} has no Triton kernels; take auto or torch")


def choose(
    kernels: str, divergence: str, dtypes: Sequence[torch.dtype], machine: Machine, ranks: int
) -> Path:
    """dtypes: of both hidden states and both heads; ranks: of the tensor-parallel group.

    Raises ValueError where kernels is "triton" and cannot be.
    """
    check_kernels(kernels, divergence)
    row = DIVERGENCES[divergence]
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    on_gpu = machine.device == "cuda"
    missing = _too_old(machine) or machine.no_triton
    unfit = "float64 is computed, and the kernels are float32's" if dtype != torch.float32 else None
    if kernels == "triton" and (obstacle := unfit or missing):
        raise ValueError(f"kernels: triton cannot be: {obstacle}; take auto or torch")
    could = on_gpu and row.kernels and unfit is None and kernels == "auto"
    triton = kernels == "triton" or (could and missing is None)
    return Path(
        triton=triton,
        tensor_cores=on_gpu
        and machine.capability >= CAPABILITY
        and set(dtypes) == {torch.bfloat16}
        and _torch_version() >= MIXED_PRODUCTS,
        pipelined=on_gpu and ranks > 1,
        dtype=dtype,
        buffers=2 if triton else row.buffers,
        slow_because=missing if could else None,
    )


def loss_path(
    device: torch.device,
    dtype: torch.dtype,
    *,
    teacher_dtype: torch.dtype | None = None,
    divergence: str,
    kernels: str = "auto",
    ranks: int = 1,
) -> Path:
    """What `weighted_divergence` will do with hidden states and heads of dtype on this device, the teacher's
    of teacher_dtype (None: the same); str() of it is the line for a log. Raises ValueError as it would."""
    return choose(kernels, divergence, [dtype, teacher_dtype or dtype], Machine.of(device), ranks)


def _too_old(machine: Machine) -> str | None:
    if machine.device == "cuda" and machine.capability < CAPABILITY:
        have, need = (".".join(map(str, of)) for of in (machine.capability, CAPABILITY))
        return f"the GPU's compute capability is {have}, and {need} is needed"
    return None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache  # a broken Triton is tried once in a process, not twice for every micro-batch
def _why_no_triton(on_gpu: bool) -> str | None:
    """Triton compiles a piece of C when it begins on a GPU, so that it can be imported and still be of no
    use: where there is no C compiler, or Python came without its headers."""
    try:
        import triton
    except Exception:  # a broken one raises what it likes, as does the next
        return "Triton cannot be imported (pip install triton)"
    try:
        if on_gpu:
            triton.runtime.driver.active  # noqa: B018
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return f"Triton cannot begin: {said} (it needs gcc and Python's headers, python3-dev)"
    return None


def _torch_version() -> tuple[int, ...]:
    return tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
