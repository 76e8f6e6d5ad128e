"""What the loss takes on a GPU is planned with the buffers that it has there, and stays in its workspace."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.test_real_sizes import CONFIGS
from paced_megatron.models.families import ModelShape, model_shape
from paced_megatron.plan.loss import loss_bytes
from paced_megatron.plan.work import Layout, Work

WORKSPACE_MB = 3072  # more than float32 numbers of the head take


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    shutil.copy(CONFIGS / "Qwen3-8B.json", tmp_path / "config.json")
    return model_shape(tmp_path)


def of_chunk(work: Work) -> float:
    """Bytes that the workspace is for: without the gradients and what is known of every token."""
    rows = work.student.padded_vocab_size(work.layout.tensor_model_parallel_size)
    head = rows // work.layout.tensor_model_parallel_size * work.student.hidden_size * 4
    return loss_bytes(work) - head - work.loss_tokens * (work.student.hidden_size + 12) * 4


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd", "akl"])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_workspace_is_filled_and_not_gone_beyond(
    shape: ModelShape, divergence: str, kernels: str, dtype: str, ranks: int
) -> None:
    work = Work(
        shape, shape, Layout(tensor_model_parallel_size=ranks), dtype, 8, 8, 512, 7680,
        loss_workspace_mb=WORKSPACE_MB, loss_kernels=kernels, divergence=divergence,
    )  # fmt: skip
    assert 0.7 * WORKSPACE_MB * 2**20 < of_chunk(work) <= WORKSPACE_MB * 2**20


def test_what_no_workspace_is_set_for_grows_with_the_kernels_chunks_not_with_the_tokens(
    shape: ModelShape,
) -> None:
    work = Work(shape, shape, Layout(), "bfloat16", 1, 8, 512, 7680)
    head = shape.padded_vocab_size(1) * shape.hidden_size * 4
    assert 0.8 * head < of_chunk(work) <= head
    assert of_chunk(replace(work, micro_batch_size=4)) == pytest.approx(of_chunk(work), rel=0.06)


@pytest.mark.parametrize("dtype, element", [("bfloat16", 2), ("float32", 4)])
def test_in_a_small_workspace_what_autograd_is_handed_for_the_head_counts(
    shape: ModelShape, dtype: str, element: int
) -> None:
    """training/head.py's tensor of the head's shape and dtype, beside the gradient that main_grad gets."""
    work = Work(shape, shape, Layout(), dtype, 1, 8, 512, 7680, loss_workspace_mb=64)
    head = shape.padded_vocab_size(1) * shape.hidden_size
    assert of_chunk(work) == head * element
