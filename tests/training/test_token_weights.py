"""Rows of TOKEN_WEIGHTS, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paced_megatron.config import TrainingConfig
from paced_megatron.training.token_weights import (
    TokenStatistics,
    make_token_weights,
    quantile,
    soft_or_kept,
)


def statistics(entropy, divergence, lengths) -> TokenStatistics:
    numbers = torch.tensor([divergence, entropy, entropy, entropy, entropy], dtype=torch.float64)
    return TokenStatistics(*numbers.unbind(), lengths)


def test_soft_or_keeps_what_is_uncertain_or_far_off_of_each_text():
    # Entropies 0..1 and divergences 0..1 already: the score is 1 - (1 - h)(1 - d).
    entropy = [0.0, 0.9, 0.2, 1.0, 0.1, 0.0, 0.3]
    divergence = [1.0, 0.0, 0.2, 0.0, 0.1, 0.2, 0.0]
    # The entropy's clip at its 0.98 quantile lowers the 1.0 alone, and the scale with it.
    found = soft_or_kept(statistics(entropy, divergence, [4, 3]), kept=0.5)
    assert found.tolist() == [2.0, 0, 0, 2.0, 0, 0, 3.0]


def test_the_entropys_largest_two_hundredths_count_alike():
    entropy = torch.linspace(0, 1, 100, dtype=torch.float64).tolist()
    entropy[99] = 1000.0  # unclipped, it would make all others 0
    divergence = [0.0] * 100
    divergence[0], divergence[50] = 1.0, 0.3
    # one text: h + d - h d; without the clip token 50's 0.3 would beat token 97's h of about 0
    found = soft_or_kept(statistics(entropy, divergence, [100]), kept=0.04)
    # 0 (d = 1), 98 and 99 (clipped alike), 97
    assert found.nonzero().flatten().tolist() == [0, 97, 98, 99]
    assert set(found[found > 0].tolist()) == {25.0}


@pytest.mark.parametrize(
    "length, kept, count",
    [(5, 0.5, 2), (1, 0.5, 1), (3, 0.2, 1), (4, 1.0, 4), (90, 0.7, 63), (100, 0.29, 29)],
)
def test_a_texts_mean_is_over_the_floor_of_its_share_and_at_least_one_token(length, kept, count):
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(2, length, generator=generator, dtype=torch.float64).tolist()
    found = soft_or_kept(statistics(*numbers, [length]), kept=kept)
    assert (found > 0).sum() == count
    assert found.mean() == pytest.approx(1.0, abs=1e-12)


def test_tokens_that_are_all_alike_are_kept_in_their_order():
    found = soft_or_kept(statistics([0.5] * 4, [0.1] * 4, [4]), kept=0.5)
    assert found.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_the_quantile_is_numpys():
    generator = torch.Generator().manual_seed(4)
    for count in (1, 2, 7, 50, 101):
        values = torch.randn(count, generator=generator, dtype=torch.float64)
        for q in (0.0, 0.3, 0.98, 1.0):
            assert quantile(values, q) == pytest.approx(np.quantile(values.numpy(), q), abs=1e-14)


def test_by_default_nothing_is_measured():
    assert make_token_weights(TrainingConfig()) is None
    tip = make_token_weights(TrainingConfig(token_weights="tip", token_weights_kept=0.25))
    assert tip is not None and tip.whole_batch
    weights = tip.weigh(statistics([0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.1, 0.1], [4]))
    assert weights.tolist() == [0.0, 0.0, 0.0, 4.0]
