"""How the tokens are cut into chunks, and what goes between the ranks for each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from divergence.cases import ONE_EACH, TOKENS, VOCAB, call, workspace_for
from paced_megatron.divergence import DIVERGENCES
from paced_megatron.divergence.vocabulary import VocabularyShard
from paced_megatron.divergence.workspace import ALIGNMENT, Workspace

QWEN3 = 151_936
# Of a block: the numbers of `measure` once, a mixture's two sums, AKL's 62 bits of a float64 and two gaps.
GATHERS = {"forward_kl": 1, "reverse_kl": 1, "jsd": 2, "skew_forward_kl": 2, "skew_reverse_kl": 2, "akl": 64}


def head(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(1, dtype=dtype).expand(QWEN3, size)


@pytest.mark.parametrize("size", [1024, 2048, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_workspace_both_logits_of_a_chunk_take_what_the_heads_gradient_takes(
    size: int, dtype: torch.dtype
) -> None:
    tokens = Workspace.of(None, head(size, dtype), head(size, dtype), torch.float32, buffers=4).tokens
    # An eighth less where a head is widened; a few blocks, the hidden states and the alignment less.
    least = (0.85 if dtype == torch.float32 else 0.72) * size
    assert least <= 2 * tokens <= size and tokens % ALIGNMENT == 0


def test_a_small_head_gets_256_megabytes_all_the_same() -> None:
    heads = head(32), head(32)
    by_itself, given = (Workspace.of(megabytes, *heads, torch.float32, 4) for megabytes in (None, 256))
    assert by_itself == given and given.tokens > 100


@pytest.mark.parametrize("size", [512, 1024, 1536])
@pytest.mark.parametrize("beside", [0.0, 0.5, 2.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_a_chunk_has_at_least_1024_tokens(size: int, beside: float, dtype: torch.dtype) -> None:
    """Whole ones: 1023.99 would be cut to 960. On a CPU they are fewer."""
    with FakeTensorMode():
        heads = [torch.empty(QWEN3, of, dtype=dtype, device="cuda") for of in (size, size + 8)]
    assert Workspace.of(None, *heads, torch.float32, 2, beside=beside).tokens >= 1024
    with FakeTensorMode():
        heads = [torch.empty(QWEN3, of, dtype=dtype) for of in (size, size + 8)]
    assert Workspace.of(None, *heads, torch.float32, 4, beside=beside).tokens < 1024


@pytest.mark.parametrize("tokens", [1, 7, 63, 64, 448])
def test_chunks_are_as_few_as_fit_and_nearly_equal(tokens: int) -> None:
    workspace = Workspace(tokens, 1, 1)
    for count in range(1, 2000, 7):
        step, chunks = workspace.chunk_tokens(count), math.ceil(count / tokens)
        assert step <= tokens and math.ceil(count / step) == chunks
        assert step - math.ceil(count / chunks) < ALIGNMENT
        assert step % ALIGNMENT == 0 or step == count or tokens < ALIGNMENT
    assert workspace.chunk_tokens(0) == 1


@pytest.mark.parametrize(("divergence", "parameter"), ONE_EACH)
def test_a_chunk_takes_the_gathers_that_its_divergence_is_known_for_and_backward_none(
    monkeypatch: pytest.MonkeyPatch, divergence: str, parameter: float | None
) -> None:
    gathers, plain = [], VocabularyShard.gather

    def counted(shard: VocabularyShard, local: Tensor) -> Tensor:
        gathers.append(local.shape)
        return plain(shard, local)

    monkeypatch.setattr(VocabularyShard, "gather", counted)
    buffers = DIVERGENCES[divergence].buffers
    workspace_mb = workspace_for(8, VOCAB, torch.float64, torch.float64, buffers)
    loss = call(divergence=divergence, parameter=parameter, workspace_mb=workspace_mb).loss
    assert len(gathers) == TOKENS // 8 * GATHERS[divergence]
    loss.backward()
    assert len(gathers) == TOKENS // 8 * GATHERS[divergence]
