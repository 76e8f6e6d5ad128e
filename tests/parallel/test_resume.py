"""A checkpoint of one layout is gone on from at another: same weights, same optimizer, same next gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from paced_megatron.config import ParallelConfig
from paced_megatron.models.distributed_checkpoint import Checkpoint
from parallel.checkpoint_ranks import Setting, load_and_save, train_and_save
from parallel.layouts import DP, OVERLAP, PP, SP, TP, VPP, ZERO, Row
from parallel.parity import Parity, examples_of, texts

pytestmark = pytest.mark.parallel

LR = {"lr": 1e-2}
BF16 = {**LR, "params_dtype": "bfloat16"}
SAVED = Row("TP 2, SP", {TP: 2, **SP}, LR)
# (the layout that saves, those that go on)
CASES = {
    "TP 2": (
        Row("TP 2, SP", {TP: 2, **SP}, LR),
        [Row("PP 2", {PP: 2}), Row("DP 2, ZeRO", {DP: 2, **ZERO})],
    ),
    "DP 2": (
        Row("DP 2, overlapped", {DP: 2, **OVERLAP}, LR, models="tied"),
        [Row("PP 2, VPP 2", {PP: 2, VPP: 2}), Row("one process")],
    ),
    "bf16": (Row("DP 2, ZeRO", {DP: 2, **ZERO}, BF16), [Row("TP 2", {TP: 2}), Row("DP 2", {DP: 2})]),
}
REAL_ROWS = 260  # of the vocabulary, in texts(); the padding behind them depends on TP


def _error_of_all(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The error of the whole gradient, relative to its norm."""
    assert found.keys() == truth.keys()
    one, other = (torch.cat([g[key].double().flatten() for key in truth]) for g in (found, truth))
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module")
def parity(pool, tmp_path_factory) -> Parity:
    return Parity(pool, tmp_path_factory.mktemp("parity"))


def _setting(parity: Parity, row: Row, of: Row) -> Setting:
    """The layout of `row` with the models and the training of `of`."""
    models = parity.folders(of.models, 1.0)
    return Setting(models, examples_of(texts()), of.case().training, ParallelConfig(**row.parallel))


def _differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors that two checkpoints don't have alike, padding of the vocabulary left out."""
    first, second = Checkpoint(one), Checkpoint(other)
    assert first.shapes.keys() == second.shapes.keys()
    differ = []
    for key in first.shapes:
        left, right = first.read(key).clone(), second.read(key).clone()
        if "word_embeddings" in key or "output_layer" in key:
            rows = min(len(left), len(right))
            assert rows >= REAL_ROWS
            left, right = left[:rows], right[:rows]
        if not torch.equal(left, right):
            differ.append(key)
    return differ


@pytest.mark.parametrize("name", CASES)
def test_at_another_layout_weights_and_optimizer_are_equal_and_the_next_gradient_is_the_same(
    parity, pool, tmp_path, name
):
    row, others = CASES[name]
    saved = tmp_path / "saved"
    setting = _setting(parity, row, row)
    truth = pool.run(train_and_save, row.world_size, saved, setting, timeout=120)[0]
    for number, other in enumerate(others):
        again = tmp_path / f"again-{number}"
        setting = _setting(parity, other, row)
        ranks = pool.run(load_and_save, other.world_size, saved, again, setting, timeout=120)
        gradient, said, _ = ranks[0]
        assert _differing(saved / "iter_0000002", again / "iter_0000002") == [], other
        assert all(same for _, _, same in ranks), other
        assert "was written at" in said and "training goes on" in said
        error = _error_of_all(gradient, truth)
        print(f"{name}, {other}: {error:.2e}")
        assert error <= (0.05 if name == "bf16" else 1e-6), other
