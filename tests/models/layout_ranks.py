"""What each rank does in the tests of layouts: load, compute, save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from paced_megatron.models.families import model_shape
from paced_megatron.models.folder import hugging_face_tensors, load_weights, save_folder
from paced_megatron.models.gpt import HiddenStatesModel, build_chunks, parameters_by_name
from paced_megatron.runtime.cpu import megatron_on_cpu
from paced_megatron.runtime.world import parallel_groups


@dataclass(frozen=True)
class At:
    """A layout: TP x PP, with `vpp` virtual stages on each rank."""

    tp: int
    pp: int = 1
    vpp: int | None = None

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    def __str__(self) -> str:
        return f"tp{self.tp}-pp{self.pp}" + (f"-vpp{self.vpp}" if self.vpp else "")


@dataclass(frozen=True)
class Work:
    """One model at one layout: load `source` in `dtype`, compute logits of `tokens`, save as `out`."""

    source: Path
    out: Path
    dtype: torch.dtype
    tokens: Tensor | None


def forward(chunks: Sequence[HiddenStatesModel], tokens: Tensor, at: At) -> Tensor | None:
    """Logits [b, s, this rank's vocabulary] through Megatron's own schedule; None before the last stage.

    Each row is a micro-batch, and a multiple of the stages is what interleaving wants.
    """

    def step(rows: Iterator[Tensor], model: HiddenStatesModel) -> tuple[Tensor, Any]:
        row = next(rows)
        hidden = model(row, torch.arange(row.shape[1])[None], None)
        return hidden, lambda output, non_loss_data: output @ model.head.t()

    with torch.no_grad():
        logits = get_forward_backward_func(at.pp, at.vpp)(
            forward_step_func=step,
            data_iterator=[iter(tokens.split(1)) for _ in chunks] if at.vpp else iter(tokens.split(1)),
            model=list(chunks) if at.vpp else chunks[0],
            num_microbatches=len(tokens),
            seq_length=tokens.shape[1],
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )
    return torch.cat(logits, dim=1).transpose(0, 1) if logits else None


def gradients(rank: int, world_size: int, at: At, source: Path, tokens: Tensor) -> dict[str, Tensor]:
    """Of the sum of all positions' log-normalisers, by Hugging Face's names; empty but on rank 0. TP is 1."""

    def step(rows: Iterator[Tensor], model: HiddenStatesModel) -> tuple[Tensor, Any]:
        row = next(rows)
        hidden = model(row, torch.arange(row.shape[1])[None], None)

        def loss(output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            total = (output @ model.head.t()).logsumexp(-1).sum()
            return total, torch.tensor(1), {}

        return hidden, loss

    with megatron_on_cpu():
        groups = parallel_groups(at.tp, 1, at.pp, at.vpp)
        shape = model_shape(source)
        chunks = build_chunks(shape, groups, torch.float32, at.vpp)
        load_weights(chunks, shape, source, groups)
        get_forward_backward_func(at.pp, at.vpp)(
            forward_step_func=step,
            data_iterator=[iter(tokens.split(1)) for _ in chunks] if at.vpp else iter(tokens.split(1)),
            model=chunks if at.vpp else chunks[0],
            num_microbatches=len(tokens),
            seq_length=tokens.shape[1],
            micro_batch_size=1,
            forward_only=False,
        )
        found = {name: parameter.grad for name, parameter in parameters_by_name(chunks).items()}
        whole = dict(hugging_face_tensors(found, shape, groups))
        parallel_state.destroy_model_parallel()
    return whole


def load_compute_save(rank: int, world_size: int, at: At, works: Sequence[Work]) -> list[Tensor | None]:
    """Logits of each work on this rank, None where it has none of them."""
    with megatron_on_cpu():
        groups = parallel_groups(at.tp, 1, at.pp, at.vpp)
        results = []
        for work in works:
            shape = model_shape(work.source)
            chunks = build_chunks(shape, groups, work.dtype, at.vpp)
            load_weights(chunks, shape, work.source, groups)
            results.append(None if work.tokens is None else forward(chunks, work.tokens, at))
            save_folder(chunks, shape, groups, source=work.source, out=work.out)
        parallel_state.destroy_model_parallel()
    return results
