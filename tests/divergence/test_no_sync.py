"""Nothing in the walk waits for a GPU: on fake CUDA tensors, which have no values, `.item()` and its like
raise; so does an operation on tensors of two devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from divergence.cases import ONE_EACH
from paced_megatron.divergence import choice, divergence_statistics, matmul, weighted_divergence
from paced_megatron.divergence.choice import Machine
from paced_megatron.divergence.fused import _GradientsAtHand

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch is no CUDA build: it knows no CUDA tensors, not even fake ones"
)
TOKENS, ROWS, VOCAB, SIZES = 300, 1030, 1001, (24, 40)


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """In place of torch.addmm with out_dtype, whose shape rule for fake tensors fails in torch 2.11."""
    assert left.dtype == right.dtype == torch.bfloat16 and total.dtype == torch.float32
    assert total.shape == (left.shape[0], right.shape[1]) and left.shape[1] == right.shape[0]


def backward(loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The Function's own backward: autograd's engine asks for the device itself."""
    return _GradientsAtHand.backward(loss.grad_fn, torch.ones((), device="cuda"))


@contextmanager
def fake_gpu() -> Iterator[None]:
    hopper = Machine("cuda", (9, 0))
    with (
        FakeTensorMode(),
        mock.patch.object(choice.Machine, "of", lambda device: hopper),
        mock.patch.object(matmul, "add_product", add_product),
        mock.patch.object(
            torch.Tensor, "is_pinned", lambda self, *_: True
        ),  # a fake CUDA has no host allocator
    ):
        yield


def inputs(dtype: torch.dtype) -> dict[str, Any]:
    def empty(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=of, device="cuda")

    return {
        "student_hidden": empty(TOKENS, SIZES[0]).requires_grad_(),
        "student_head": empty(ROWS, SIZES[0]).requires_grad_(),
        "teacher_hidden": empty(TOKENS, SIZES[1]),
        "teacher_head": empty(ROWS, SIZES[1]),
        "labels": empty(TOKENS, of=torch.int64),
        "vocab_size": VOCAB,
        "workspace_mb": 1.0,
    }


@pytest.mark.parametrize("main_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("divergence", "parameter"), ONE_EACH)
def test_forward_and_backward_read_nothing_back(
    divergence: str, parameter: float | None, dtype: torch.dtype, main_grad: bool
) -> None:
    with fake_gpu():
        given = inputs(dtype)
        weights = torch.empty(TOKENS, device="cuda")
        accumulated = torch.empty(ROWS, SIZES[0], device="cuda") if main_grad else None
        result = weighted_divergence(
            **given, weights=weights, divergence=divergence, parameter=parameter, temperature=1.5,
            compute_grad=True, main_grad=accumulated, kernels="torch",
        )  # fmt: skip
        to_hidden, to_head, *_ = backward(result.loss)
        assert to_hidden is not None and to_hidden.dtype == dtype and to_hidden.shape == (TOKENS, SIZES[0])
        assert to_head is None if main_grad else to_head is not None and to_head.shape == (ROWS, SIZES[0])
        alone = divergence_statistics(**given, divergence=divergence, parameter=parameter, kernels="torch")
        assert alone.divergence.shape == (TOKENS,) and alone.divergence.device.type == "cuda"


@pytest.mark.parametrize(("divergence", "parameter"), [row for row in ONE_EACH if row[0] != "akl"])
def test_with_kernels_what_goes_around_them_reads_nothing_back(
    divergence: str, parameter: float | None
) -> None:
    """The launches alone are left out: their grids and arguments are looked at."""
    pytest.importorskip("triton")
    from paced_megatron.divergence.kernels import gradient, measure, mixtures

    launched: list[tuple[str, tuple[int, ...]]] = []
    current: list[torch.device] = []

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        """A fake CUDA cannot change its device."""
        current.append(tensor.device)
        yield
        current.pop()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(student: Any, teacher: Any, *others: Any, **constants: Any) -> None:
                assert constants["COLUMNS"] == VOCAB and student.stride(0) == teacher.stride(0) == 1024
                assert all(x.device.type == "cuda" for x in others if isinstance(x, torch.Tensor))
                assert current == [student.device]  # Triton launches on the current one
                launched.append((self.name, grid))

            return launch

    with (
        fake_gpu(),
        mock.patch.object(torch.cuda, "device_of", device_of),
        mock.patch.object(measure, "measure_kernel", Kernel("measure")),
        mock.patch.object(mixtures, "mixture_kernel", Kernel("sums")),
        mock.patch.object(gradient, "gradient_kernel", Kernel("gradient")),
    ):
        result = weighted_divergence(
            **inputs(torch.bfloat16), weights=torch.empty(TOKENS, device="cuda"), divergence=divergence,
            parameter=parameter, temperature=1.5, compute_grad=True,
        )  # fmt: skip
        backward(result.loss)
    between = [] if divergence.endswith("_kl") and parameter is None else ["sums"]
    names = [name for name, _ in launched]
    chunks = len(names) // (2 + len(between))
    assert chunks > 1 and names == chunks * ["measure", *between, "gradient"]
    rows = [grid[0] for name, grid in launched if name == "measure"]
    blocks = [grid[0] for name, grid in launched if name == "gradient"]
    assert sum(rows) == TOKENS and blocks == [4 * n for n in rows]  # 1001 entries are four blocks of 256


def test_the_fake_gpu_notices_a_number_that_is_read_back() -> None:
    with fake_gpu(), pytest.raises(DataDependentOutputException):
        torch.empty(3, device="cuda").sum().item()
