"""A checkpoint holds all that the next steps depend on, at layouts where each rank has a part of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paced_megatron.config import ParallelConfig
from parallel.checkpoint_ranks import Setting, saved_and_loaded
from parallel.layouts import DP, ONE, OVERLAP, PACKED, PP, SP, TP, VPP, ZERO, Row
from parallel.parity import Parity, examples_of, texts

pytestmark = pytest.mark.parallel

ROWS = [
    Row("one process", {}, {"lr": 1e-2}),
    Row("TP 2", {TP: 2}, {"lr": 1e-2}),
    # Tied: here the ranks' shares meet within a parameter, and within one of its rows.
    Row("DP 2, distributed optimizer", {DP: 2, **ZERO}, {"lr": 1e-2}, models="tied"),
    Row("DP 2, overlapped, bf16", {DP: 2, **OVERLAP}, {**ONE, "params_dtype": "bfloat16", "lr": 1e-2}),
    Row("bf16", {}, {"params_dtype": "bfloat16", "lr": 1e-2}),
    Row("TP 2, SP, PP 2, VPP 2, tied", {TP: 2, PP: 2, VPP: 2, **SP}, {**PACKED, "lr": 1e-2}, models="tied"),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_run_that_goes_on_from_a_checkpoint_has_the_weights_of_one_that_was_never_stopped(
    pool, tmp_path, row
):
    models = Parity(pool, tmp_path).folders(row.models, 1.0)
    schedule = {"clip_grad": 0.5, "lr_decay_style": "linear"}
    training = dataclasses.replace(row.case().training, **schedule)
    setting = Setting(models, examples_of(texts()), training, ParallelConfig(**row.parallel))
    ranks = pool.run(saved_and_loaded, row.world_size, tmp_path / "checkpoints", setting, timeout=120)
    for saved, differ, changed in ranks:
        assert differ == []
        assert changed  # the last steps did something
        if DP in row.parallel:  # what is still on its way to the replicas is waited for
            first = ranks[0][0]
            assert all(torch.equal(saved[name], first[name]) for name in first)
