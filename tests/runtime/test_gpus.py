"""A GPU for each process. torch is told how many there are: this machine has none, or too many."""

from __future__ import annotations

import pytest
import torch

from paced_megatron.errors import UserError
from paced_megatron.runtime.gpus import check_gpus, too_old_for, why_none


def test_fewer_gpus_than_processes_are_refused_and_none_at_all_means_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2)
    with pytest.raises(UserError, match="3 processes take a GPU each, and torch sees 2 here"):
        check_gpus(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_gpus(3)


def test_why_there_is_no_gpu_is_told_from_the_build_the_environment_and_the_driver(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_none() == f"torch {torch.__version__} is a build for the CPU"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert why_none() == f"CUDA_VISIBLE_DEVICES={hidden} hides them all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def too_old() -> None:  # as torch says it
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
        )

    monkeypatch.setattr(torch.cuda, "init", too_old)
    assert why_none() == (
        "torch, built for CUDA 13.0, says: The NVIDIA driver on your system is too old (found version 11040)"
    )
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert why_none() == "torch, built for CUDA 13.0, sees none"


@pytest.mark.parametrize(
    ("params_dtype", "capability", "words"),
    [
        ("bfloat16", (9, 0), None),
        ("bfloat16", (8, 0), None),
        ("bfloat16", (7, 5), "bfloat16 is emulated"),
        ("float32", (7, 0), "no flash attention"),
        ("float32", (10, 0), None),
    ],
)
def test_a_gpu_below_8_0_is_told_with_what_it_costs(params_dtype, capability, words):
    said = too_old_for(params_dtype, capability)
    assert said == "" if words is None else words in said
    assert "params_dtype" in said if words == "bfloat16 is emulated" else "params_dtype" not in said
