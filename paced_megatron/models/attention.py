"""Causal attention on torch's own kernels: of packed texts, which Megatron's local attention refuses, and on
a GPU without Transformer Engine of all.

Megatron's holds all scores at once, [b, heads, s, s] in float32; torch's kernels hold none of them. Packed
texts go through torch's kernel for texts of any length where there is one, else text by text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.dot_product_attention import DotProductAttention
from torch import Tensor

from paced_megatron.models.packed import PackedTexts

FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_CAPABILITY = (8, 0)  # Ampere
MAX_FLASH_HEAD = 256  # numbers in a head; and it has to be a multiple of 8


class TextAttention(DotProductAttention):
    """In Megatron's place for it: the same heads and scale."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        packed_seq_params: PackedSeqParams | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Each token looks at itself and at those before it in its text.

        Args:
            query: [s, b, heads, d]; packed: [t, heads, d].
            key, value: the same with `groups` in place of heads.
            packed_seq_params: `PackedTexts`, of texts in a row; None: a text to a column.

        Returns:
            [s, b, heads x d]; packed: [t, heads, d].
        """
        if packed_seq_params is None:
            if query.is_cuda:
                return self.of_padded_texts(query, key, value)
            return super().forward(query, key, value, *args, **kwargs)
        assert isinstance(packed_seq_params, PackedTexts), "packed.packed_texts makes them"
        if has_flash(query) and (varlen := _varlen()) is not None:
            return varlen(query, key, value, packed_seq_params, self.softmax_scale)
        texts = zip(*(whole.split(packed_seq_params.lengths) for whole in (query, key, value)), strict=True)
        return torch.cat([self._one_text(*text) for text in texts])

    def of_padded_texts(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`forward` of texts that are not packed, on torch's kernels, on any device."""
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query, key, value))  # [b, heads, s, d]
        return _attend(query, key, value, self.softmax_scale).permute(2, 0, 1, 3).flatten(2)

    def _one_text(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            part.transpose(0, 1)[None] for part in (query, key, value)
        )  # [1, heads, length, d]
        return _attend(query, key, value, self.softmax_scale)[0].transpose(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[b, heads, s, d] of each."""
    if query.is_cuda and not has_flash(query):
        # The kernel that is left knows no groups, and asked for them torch falls back to holding all scores.
        key, value = (_for_each_head(part, query.shape[1], 1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def _for_each_head(part: Tensor, heads: int, dim: int) -> Tensor:
    times = heads // part.shape[dim]
    return part if times == 1 else part.repeat_interleave(times, dim=dim)


def has_flash(query: Tensor) -> bool:
    """Whether torch's flash attention takes this query [..., d]: a half-precision one, on a GPU from Ampere
    on."""
    head = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in FLASH_DTYPES
        and head % 8 == 0
        and head <= MAX_FLASH_HEAD
        and _capability(query.device) >= FLASH_CAPABILITY
    )


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _varlen() -> Callable[[Tensor, Tensor, Tensor, PackedTexts, float], Tensor] | None:
    """torch's attention over packed texts, in which the host waits for nothing; None: this torch has none.

    Its arguments changed: causal was `is_causal` before it was a window (2.11), and groups came with 2.13.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = signature(varlen_attn).parameters
    groups: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}

    def attend(query: Tensor, key: Tensor, value: Tensor, texts: PackedTexts, scale: float) -> Tensor:
        if not groups:
            key, value = (_for_each_head(part, query.shape[1], 1) for part in (key, value))
        cuts, longest = texts.cuts, texts.max_seqlen_q
        assert cuts is not None
        attended = varlen_attn(
            query, key, value, cuts, cuts, longest, longest, scale=scale, **causal, **groups
        )
        assert isinstance(attended, Tensor)  # it gives more only where it is asked to
        return attended

    return attend
