"""Texts packed in a row, as Megatron's layers are told of them.

Megatron's own description of them, `PackedSeqParams`, has the cuts on the device. Its plain layers (those
without Transformer Engine) ask them back from there in every layer, twice for the rotary embedding and once
for attention, and each time the host waits for all that the device has yet to do. `PackedTexts` says the
same from what the host knew anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from paced_megatron.runtime.transfer import to_device


@dataclass
class PackedTexts(PackedSeqParams):
    """For the local layers. Megatron's own fields of the cuts stay empty, so that it does not look into them.

    Attributes:
        cuts: int32 [texts + 1] on the model's device: where each text begins, and the end.
        lengths: tokens of each text, on the host.
        positions: int64 [tokens] on the model's device: each token's place in its text.
    """

    cuts: Tensor | None = None
    lengths: tuple[int, ...] = ()
    positions: Tensor | None = None

    def by_token(self, rotary: Tensor) -> Tensor:
        """Megatron's angles by position, [longest, 1, 1, d], as angles by token, [tokens, 1, d], which it
        multiplies queries [tokens, heads, d] with as they are."""
        assert self.positions is not None
        return rotary[self.positions].flatten(1, 2)


def packed_texts(cu_seqlens: Tensor, device: torch.device, config: TransformerConfig) -> PackedSeqParams:
    """What the model of `config` has to hear of the texts of one packed row.

    Args:
        cu_seqlens: int32 [texts + 1] on the CPU, from 0 to the row's length.
        device: the model's.
    """
    lengths = cu_seqlens.diff()
    longest, cuts = int(lengths.max()), to_device(cu_seqlens, device)
    if config.transformer_impl == "transformer_engine":  # whose kernels read the cuts on the device
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=cuts,
            cu_seqlens_kv=cuts,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    return PackedTexts(
        qkv_format="thd",
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        cuts=cuts,
        lengths=tuple(lengths.tolist()),
        positions=to_device(positions, device),
    )
