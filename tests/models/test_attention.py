"""Attention on torch's kernels beside Megatron's own and beside attention by its definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.transformer.dot_product_attention import DotProductAttention
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from paced_megatron.models import attention
from paced_megatron.models.attention import TextAttention
from paced_megatron.models.packed import packed_texts

HEADS, GROUPS, DIM = 6, 2, 8
LENGTHS = (5, 1, 9, 3)


def make(scale: float = 0.4) -> TextAttention:
    """Without Megatron's groups, which only its constructor asks for."""
    made = TextAttention.__new__(TextAttention)
    torch.nn.Module.__init__(made)
    made.softmax_scale = scale
    return made


def by_definition(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """One text: query [s, heads, d], key and value [s, groups, d] to [s, heads, d]."""
    out = torch.empty_like(query)
    for head in range(query.shape[1]):
        group = head // (query.shape[1] // key.shape[1])
        scores = query[:, head] @ key[:, group].T * scale
        above = torch.ones_like(scores, dtype=torch.bool).triu(1)
        out[:, head] = scores.masked_fill(above, -torch.inf).softmax(-1) @ value[:, group]
    return out


def parts(*lead: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        torch.randn(*lead, heads, DIM, dtype=dtype, device=device).requires_grad_()
        for heads in (HEADS, GROUPS, GROUPS)
    ]


def packed(device: str = "cpu", impl: str = "local") -> Any:
    cuts = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    config: Any = SimpleNamespace(transformer_impl=impl)
    return packed_texts(cuts, torch.device(device), config)


def same(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    direction = torch.randn_like(ours)
    mine, others = (torch.autograd.grad((out * direction).sum(), inputs) for out in (ours, theirs))
    for left, right in zip([ours, *mine], [theirs, *others], strict=True):
        assert (left - right).abs().max() <= 1e-13


def test_padded_texts_on_torchs_kernels_are_attention_by_its_definition():
    torch.manual_seed(1)
    inputs = parts(11, 3)
    texts = [by_definition(*(part[:, text] for part in inputs), 0.4) for text in range(3)]
    same(make().of_padded_texts(*inputs), torch.stack(texts, dim=1).flatten(2), inputs)


def test_packed_texts_are_attention_by_its_definition_text_by_text():
    torch.manual_seed(2)
    inputs = parts(sum(LENGTHS))
    texts = [
        by_definition(*text, 0.4) for text in zip(*(part.split(LENGTHS) for part in inputs), strict=True)
    ]
    same(make()(*inputs, packed_seq_params=packed()), torch.cat(texts), inputs)


def test_on_the_cpu_padded_texts_keep_megatrons_own_attention(monkeypatch):
    torch.manual_seed(3)
    monkeypatch.setattr(DotProductAttention, "forward", lambda self, *parts, **rest: parts[0] + 1)
    query, key, value = parts(4, 1)
    assert torch.equal(make()(query, key, value, None), query + 1)


def test_positions_and_cuts_are_those_of_the_texts():
    texts = packed()
    assert texts.lengths == LENGTHS and texts.cuts.tolist() == [0, 5, 6, 15, 18] and texts.max_seqlen_q == 9
    assert texts.positions.tolist() == [*range(5), 0, *range(9), *range(3)]
    assert texts.cu_seqlens_q is None  # Megatron would wait for the device to look into it
    rotary = torch.arange(9.0)[:, None, None, None].expand(9, 1, 1, 4)
    assert texts.by_token(rotary).shape == (18, 1, 4)
    assert texts.by_token(rotary)[:, 0, 0].tolist() == texts.positions.tolist()
    assert packed(impl="transformer_engine").cu_seqlens_q.tolist() == [0, 5, 6, 15, 18]


@pytest.fixture
def fake_gpu(monkeypatch):
    """torch's fake tensors on a GPU that is not there: they refuse whatever makes the host wait for it, and
    tensors of two devices in one operation. Values they have none, and autograd can't go back through them
    without a GPU."""
    if torch.version.cuda is None:
        pytest.skip("a torch that was built without CUDA knows no such tensors")
    monkeypatch.setattr(attention, "_capability", lambda device: (9, 0))
    with FakeTensorMode(allow_non_fake_inputs=False), torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu_no_text_makes_the_host_wait(fake_gpu, dtype):
    texts = _on_fake_gpu()
    inputs = parts(sum(LENGTHS), device="cuda", dtype=dtype)
    out = make()(*inputs, packed_seq_params=texts)
    assert out.shape == inputs[0].shape and out.device.type == "cuda" and out.dtype == dtype
    padded = parts(11, 3, device="cuda", dtype=dtype)
    assert make()(*padded, None).shape == (11, 3, HEADS * DIM)


def _on_fake_gpu() -> Any:
    with unset_fake_temporarily():  # the host's tensors have values
        texts = packed()
    texts.cuts = torch.zeros(len(LENGTHS) + 1, dtype=torch.int32, device="cuda")
    return texts


def test_half_precision_goes_through_torchs_kernel_for_texts_of_any_length(fake_gpu, monkeypatch):
    seen = []

    def varlen(query, key, value, texts, scale):
        seen.append((texts.lengths, scale))
        return query

    monkeypatch.setattr(attention, "_varlen", lambda: varlen)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        make()(*parts(sum(LENGTHS), device="cuda", dtype=dtype), packed_seq_params=_on_fake_gpu())
    assert seen == [(LENGTHS, 0.4)] * 2
    monkeypatch.setattr(attention, "_capability", lambda device: (7, 5))  # Turing has no flash attention
    make()(*parts(sum(LENGTHS), device="cuda", dtype=torch.float16), packed_seq_params=_on_fake_gpu())
    assert len(seen) == 2


def _newest(
    query,
    key,
    value,
    cuts,
    cuts_too,
    longest,
    longest_too,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
):
    assert window_size == (-1, 0) and enable_gqa and key.shape[1] == GROUPS
    return query * scale


def _of_2_11(query, key, value, cuts, cuts_too, longest, longest_too, *, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0) and key.shape[1] == value.shape[1] == HEADS
    assert torch.equal(key[:, 0], key[:, 1]) and not torch.equal(key[:, 0], key[:, HEADS // GROUPS])
    return query * scale


def _of_2_10(query, key, value, cuts, cuts_too, longest, longest_too, is_causal=False, scale=None):
    assert is_causal and key.shape[1] == HEADS
    return query * scale


@pytest.mark.parametrize("varlen_attn", [_newest, _of_2_11, _of_2_10])
def test_each_torchs_arguments_are_found(varlen_attn, monkeypatch):
    torch.manual_seed(4)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    attend = attention._varlen.__wrapped__()
    query, key, value = parts(sum(LENGTHS))
    assert torch.equal(attend(query, key, value, packed(), 0.4), query * 0.4)
