"""No tensor of tokens x vocabulary, forward or backward; and what is alive at once stays within the
workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paced_megatron.divergence import DIVERGENCES, weighted_divergence
from paced_megatron.divergence.reference import reference_divergence

VOCAB, ROWS, STUDENT_SIZE, TEACHER_SIZE = 1500, 1536, 24, 40
WORKSPACE_MB = 1.0


class Watch(TorchDispatchMode):
    """Sees every tensor that an operation makes, inside a Function and in backward too."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.known = {x.untyped_storage()._cdata for x in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.largest = 0
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.largest = max(self.largest, tensor.numel())
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self.alive.values()))
        return out


def watched(
    tokens: int,
    divergence: str,
    dtype: torch.dtype,
    *,
    fused: bool = True,
    workspace_mb: float = WORKSPACE_MB,
    upstream: float = 2.0,
) -> Watch:
    torch.manual_seed(7)
    inputs = [
        torch.randn(tokens, STUDENT_SIZE).to(dtype).requires_grad_(),
        torch.randn(ROWS, STUDENT_SIZE).to(dtype).requires_grad_(),
        torch.randn(tokens, TEACHER_SIZE).to(dtype),
        torch.randn(ROWS, TEACHER_SIZE).to(dtype),
        torch.randn(tokens),
    ]
    labels = torch.randint(VOCAB, (tokens,))
    settings: dict[str, Any] = {"divergence": divergence, "vocab_size": VOCAB, "labels": labels}
    if DIVERGENCES[divergence].parameter:
        settings["parameter"] = 0.3
    if fused:
        settings |= {"compute_grad": True, "workspace_mb": workspace_mb}
    with Watch([*inputs, labels]) as watch:
        result = (weighted_divergence if fused else reference_divergence)(*inputs, **settings)
        (upstream * result.loss).backward()
    return watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_tensor_has_tokens_and_vocabulary(divergence: str, dtype: torch.dtype) -> None:
    tokens = 400
    assert watched(tokens, divergence, dtype).largest < tokens * VOCAB / 4


def test_the_watch_sees_a_tensor_of_tokens_and_vocabulary() -> None:
    assert watched(400, "forward_kl", torch.float32, fused=False).largest >= 400 * VOCAB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_peak_is_the_workspace_and_what_grows_with_tokens_alone(
    divergence: str, dtype: torch.dtype
) -> None:
    """Beside the workspace: the head's gradient and its cast, the hidden gradient in three versions, [M]
    numbers."""
    for tokens in (400, 1600):
        peak = watched(tokens, divergence, dtype).peak_bytes
        hidden = tokens * STUDENT_SIZE * 4
        allowed = WORKSPACE_MB * 2**20 + 2 * ROWS * STUDENT_SIZE * 4 + 3 * hidden + tokens * 16 * 8
        assert peak <= allowed, f"{peak} bytes at {tokens} tokens, {allowed} allowed"


def test_an_upstream_gradient_of_one_costs_no_second_gradient_of_the_head() -> None:
    once, twice = (
        watched(40, "forward_kl", torch.float32, workspace_mb=0.03, upstream=upstream).peak_bytes
        for upstream in (1.0, 2.0)
    )
    assert once < 1.5 * ROWS * STUDENT_SIZE * 4
    assert twice > 2 * ROWS * STUDENT_SIZE * 4


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd", "akl"])
def test_the_peak_beyond_what_is_per_token_is_flat_from_1_000_to_16_000_tokens(divergence: str) -> None:
    """To 5 %, in a workspace that is the larger part, as in earnest. What is per token, and not counted:
    the hidden gradient, and 48 bytes of results, indices and weights."""
    peaks = []
    for tokens in (1000, 4000, 16000):
        peak = watched(tokens, divergence, torch.float32, workspace_mb=4.0).peak_bytes
        peaks.append(peak - tokens * (STUDENT_SIZE * 4 + 48))
    assert max(peaks) <= 1.05 * min(peaks), f"bytes at 1k, 4k and 16k tokens: {peaks}"
