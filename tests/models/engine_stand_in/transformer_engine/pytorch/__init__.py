"""See the package."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed, fp8, ops

__all__ = [
    "DotProductAttention",
    "GroupedLinear",
    "LayerNorm",
    "LayerNormLinear",
    "Linear",
    "RMSNorm",
    "distributed",
    "fp8",
    "ops",
]


def _empty(*size: int, params_dtype: torch.dtype, device: Any) -> torch.nn.Parameter:
    # Filled with NaN: a parameter that nobody loads shows.
    return torch.nn.Parameter(torch.full(size, torch.nan, dtype=params_dtype, device=device))


def _mark(weight: Tensor, dim: int) -> None:
    assert not hasattr(weight, "tensor_model_parallel")  # as Transformer Engine asserts
    weight.tensor_model_parallel, weight.partition_dim, weight.partition_stride = True, dim, 1


class Linear(torch.nn.Module):
    """y = x W^T + b."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sequence_parallel: bool,
        tp_size: int,
        bias: bool,
        return_bias: bool,
        parallel_mode: str,
        params_dtype: torch.dtype,
        device: Any,
        **unused: Any,
    ) -> None:
        super().__init__()
        assert tp_size == 1, "the stand-in is for one rank"
        self.in_features, self.out_features, self.parallel_mode = in_features, out_features, parallel_mode
        self.return_bias, self.use_bias, self.tp_size = return_bias, bias, tp_size
        self.weight = _empty(out_features, in_features, params_dtype=params_dtype, device=device)
        _mark(self.weight, 1 if parallel_mode == "row" else 0)
        self.register_parameter("bias", None)
        if bias:
            self.bias = _empty(out_features, params_dtype=params_dtype, device=device)
            _mark(self.bias, 0)

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None) -> Any:
        out = F.linear(inp, self.weight, None if self.return_bias else self.bias)
        return (out, self.bias) if self.return_bias else out


class LayerNormLinear(Linear):
    """A norm, and `Linear` of it."""

    def __init__(
        self, in_features: int, out_features: int, *, eps: float, normalization: str, **rest: Any
    ) -> None:
        super().__init__(in_features, out_features, **rest)
        assert normalization == "RMSNorm"
        self.eps = eps
        self.layer_norm_weight = _empty(in_features, params_dtype=rest["params_dtype"], device=rest["device"])
        self.layer_norm_weight.sequence_parallel = rest["sequence_parallel"]

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None) -> Any:
        normed = F.rms_norm(inp, self.layer_norm_weight.shape, self.layer_norm_weight, self.eps)
        return super().forward(normed, is_first_microbatch)


class RMSNorm(torch.nn.Module):
    """Megatron-Core 0.16.1 names the size `hidden_size`, 0.19.2 `normalized_shape`."""

    def __init__(
        self,
        normalized_shape: int | None = None,
        eps: float = 1e-5,
        sequence_parallel: bool = False,
        zero_centered_gamma: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        hidden_size: int | None = None,
        params_dtype: torch.dtype | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        hidden_size, params_dtype = normalized_shape or hidden_size, dtype or params_dtype
        assert hidden_size is not None and params_dtype is not None
        self.eps = eps
        self.weight = _empty(hidden_size, params_dtype=params_dtype, device=device)
        self.weight.sequence_parallel = sequence_parallel

    def forward(self, inp: Tensor) -> Tensor:
        return F.rms_norm(inp, self.weight.shape, self.weight, self.eps)


class LayerNorm(torch.nn.Module):
    """Only its name is asked for."""


class GroupedLinear(torch.nn.Module):
    """Only its name is asked for."""


class DotProductAttention(torch.nn.Module):
    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int,
        *,
        num_gqa_groups: int,
        softmax_scale: float | None,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.scale = softmax_scale or kv_channels**-0.5

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        attn_mask_type: str,
        qkv_format: str = "sbhd",
        cu_seqlens_q: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """[s, b, heads, d] to [s, b, heads x d]; of thd [t, heads, d] to [t, heads x d]."""
        if qkv_format == "sbhd":
            assert attn_mask_type == "causal"
            return self._attend(query, key, value).flatten(2)
        assert attn_mask_type == "padding_causal" and cu_seqlens_q is not None
        texts = [
            self._attend(*(part[start:end, None] for part in (query, key, value)))[:, 0]
            for start, end in pairwise(cu_seqlens_q.tolist())
        ]
        return torch.cat(texts).flatten(1)

    def _attend(self, *parts: Tensor) -> Tensor:
        query, key, value = (part.permute(1, 2, 0, 3) for part in parts)
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale, enable_gqa=True
        )
        return out.permute(2, 0, 1, 3)
