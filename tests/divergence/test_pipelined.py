"""The walk of a GPU at tensor parallelism: the next chunk's products go beside a chunk's all-gather."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from divergence.cases import ONE_EACH, TOKENS, Spec, run_all, run_one
from divergence.conformance import assert_conforms
from paced_megatron.divergence.matmul import Widened
from paced_megatron.divergence.vocabulary import Gathering, VocabularyShard

# Of three, two and one chunk; 3 ranks with a part of the vocabulary each, and with a last one without any.
ROWS = {2: (110,), 3: (80, 102)}


@pytest.mark.parallel
@pytest.mark.parametrize("ranks", ROWS)
def test_numbers_and_gradients_are_those_of_the_plain_walk_to_the_last_digit(pool: Any, ranks: int) -> None:
    specs = [
        Spec(d, p, dtype, temperature=2.5, chunk=chunk, sequence_parallel=chunk == 8, rows=rows)
        for (d, p), dtype in [*((row, "float64") for row in ONE_EACH), (ONE_EACH[0], "bfloat16")]
        for chunk in (8, 12, TOKENS)
        for rows in ROWS[ranks]
    ]
    specs += [Spec(indices=(), rows=ROWS[ranks][0]), Spec(indices=(5, 1, 9), chunk=2, rows=ROWS[ranks][0])]
    specs.append(replace(specs[-1], dtype="bfloat16", tensor_cores=True))
    both = specs + [replace(spec, pipelined=True) for spec in specs]
    by_rank = pool.run(run_all, ranks, [(tuple(range(ranks)), both)], timeout=120)
    outcomes = list(zip(*by_rank, strict=True))
    for spec, plain, overlapped in zip(specs, outcomes[: len(specs)], outcomes[len(specs) :], strict=True):
        assert_conforms(replace(spec, pipelined=True), list(overlapped))
        for one, other in zip(plain, overlapped, strict=True):
            assert torch.equal(one.hidden_grad, other.hidden_grad), spec
            assert torch.equal(one.head_grad, other.head_grad), spec
            assert torch.equal(one.result.divergence, other.result.divergence), spec


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_chunks_numbers_are_asked_for_before_the_next_chunks_products_and_awaited_after(
    monkeypatch: pytest.MonkeyPatch, pipelined: bool
) -> None:
    calls: list[str] = []
    project, to_hidden = Widened.project, Widened.to_hidden
    gather, start = VocabularyShard.gather, VocabularyShard.start_gather

    def seen_project(self: Widened, hidden: Tensor, head: Tensor, *, out: Tensor) -> None:
        calls.append("logits")
        project(self, hidden, head, out=out)

    def seen_to_hidden(self: Widened, logit_gradient: Tensor, head: Tensor) -> Tensor:
        calls.append("back")
        return to_hidden(self, logit_gradient, head)

    def seen_gather(self: VocabularyShard, local: Tensor) -> Tensor:
        calls.append("gather")
        return gather(self, local)

    class Seen(Gathering):
        def wait(self) -> Tensor:
            calls.append("wait")
            return super().wait()

    def seen_start(self: VocabularyShard, local: Tensor) -> Gathering:
        calls.append("start")
        return Seen(**vars(start(self, local)))

    monkeypatch.setattr(Widened, "project", seen_project)
    monkeypatch.setattr(Widened, "to_hidden", seen_to_hidden)
    monkeypatch.setattr(VocabularyShard, "gather", seen_gather)
    monkeypatch.setattr(VocabularyShard, "start_gather", seen_start)
    run_one(Spec(chunk=8, pipelined=pipelined), 0, 1, None)
    logits = ["logits", "logits"]
    if pipelined:
        within = ["start", *logits, "wait", "back"]
        assert calls == [*logits, *within, *within, "start", "wait", "back"]
    else:
        assert calls == 3 * [*logits, "gather", "back"]
