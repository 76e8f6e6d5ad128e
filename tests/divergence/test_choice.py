"""Which way the loss takes on which machine; the machines are told, none is looked for."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from divergence.cases import call
from paced_megatron.divergence import DIVERGENCES, choice, loss_path
from paced_megatron.divergence.choice import Machine, Path, choose

BF16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float32, torch.float64
HOPPER, TURING = Machine("cuda", (9, 0)), Machine("cuda", (7, 5))
NO_TRITON = "Triton cannot be imported (pip install triton)"


def path(
    machine: Machine = HOPPER,
    *,
    kernels: str = "auto",
    divergence: str = "forward_kl",
    dtypes: list[torch.dtype] | None = None,
    ranks: int = 1,
) -> Path:
    return choose(kernels, divergence, [BF16] * 4 if dtypes is None else dtypes, machine, ranks)


def test_a_new_gpu_gets_kernels_and_bf16_products_and_a_cpu_neither() -> None:
    taken = path()
    assert (taken.triton, taken.tensor_cores, taken.pipelined) == (True, True, False)
    assert taken.buffers == 2 and taken.beside == 0.5 and taken.slow_because is None
    assert str(taken) == "loss: Triton kernels, bf16 products with float32 logits"
    taken = path(Machine("cpu"), ranks=2)
    assert (taken.triton, taken.tensor_cores, taken.pipelined) == (False, False, False)
    assert taken.buffers == 4 and taken.beside == 0 and taken.slow_because is None
    assert str(taken) == "loss: torch operations, products in float32"


def test_tensor_parallel_ranks_with_gpus_overlap_which_takes_another_pair_of_logits() -> None:
    taken = path(ranks=2)
    assert taken.pipelined and taken.beside == 2.5
    assert str(taken).endswith(", the next chunk's products beside each all-gather")


@pytest.mark.parametrize("odd", range(4))
@pytest.mark.parametrize("dtype", [FLOAT32, torch.float16])
def test_one_input_of_another_dtype_is_enough_for_widened_products(dtype: torch.dtype, odd: int) -> None:
    taken = path(dtypes=[dtype if number == odd else BF16 for number in range(4)])
    assert not taken.tensor_cores and taken.triton and taken.dtype == FLOAT32
    assert not path(dtypes=[torch.float16] * 4).tensor_cores


def test_what_has_no_kernels_takes_torch_without_a_word() -> None:
    for taken in (path(divergence="akl"), path(dtypes=[FLOAT64] * 4), path(kernels="torch")):
        assert not taken.triton and taken.slow_because is None
    assert path(divergence="akl").buffers == DIVERGENCES["akl"].buffers


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (TURING, "the GPU's compute capability is 7.5, and 8.0 is needed"),
        (Machine("cuda", (9, 0), NO_TRITON), NO_TRITON),
    ],
)
def test_a_gpu_that_cannot_gets_the_slower_way_with_one_warning_of_what_it_costs(
    machine: Machine, why: str
) -> None:
    taken = path(machine)
    assert not taken.triton and taken.tensor_cores == (machine.capability >= (8, 0))
    said = f"{why}: several passes over a chunk's logits instead of two"
    assert str(taken).endswith(f" ({said})")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            taken.warn()
    assert [str(one.message) for one in caught] == [f"the loss runs without Triton kernels; {said}"]
    assert path(machine, kernels="torch").slow_because is None
    assert path(machine, divergence="akl").slow_because is None
    with pytest.raises(ValueError, match=r"^kernels: triton cannot be: .*; take auto or torch$") as error:
        path(machine, kernels="triton")
    assert why in str(error.value)


def test_a_triton_that_imports_and_finds_no_compiler_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would raise in the first step. A stand-in: here is a compiler, and no GPU to begin on."""

    class Driver:
        @property
        def active(self) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    here = SimpleNamespace(runtime=SimpleNamespace(driver=Driver()))
    monkeypatch.setitem(sys.modules, "triton", here)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(choice, "_why_no_triton", choice._why_no_triton.__wrapped__)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    taken = loss_path(torch.device("cuda"), BF16, divergence="jsd")
    assert not taken.triton and taken.tensor_cores
    assert taken.slow_because == (
        "Triton cannot begin: Failed to find C compiler. (it needs gcc and Python's headers, python3-dev)"
    )


def test_on_a_gpu_kernels_are_not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable left over from debugging would copy all logits to the CPU and take hours."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    taken = loss_path(torch.device("cuda"), BF16, divergence="forward_kl")
    assert not taken.triton and taken.slow_because is not None
    assert taken.slow_because.startswith("TRITON_INTERPRET=1 is set")


def test_triton_where_it_cannot_be_and_an_unknown_word_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refused = {
        "kernels: 'cuda' is unknown; known are auto, torch, triton": {"kernels": "cuda"},
        "kernels: akl has no Triton kernels; take auto or torch": {"kernels": "triton", "divergence": "akl"},
        "kernels: triton cannot be: float64 is computed, and the kernels are float32's; take auto or torch": {
            "kernels": "triton"
        },
    }
    for said, arguments in refused.items():
        with pytest.raises(ValueError) as error:
            call(**arguments)
        assert str(error.value) == said
    with pytest.raises(
        ValueError, match="the tensors are on cpu, and kernels need a GPU; take auto or torch"
    ):
        loss_path(torch.device("cpu"), BF16, divergence="jsd", kernels="triton")
