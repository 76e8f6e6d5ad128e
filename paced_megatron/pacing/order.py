"""The order in which a stage's problems are trained, where it depends on their pass rates or weights.

The usual one, epochs in a shuffled order, is `training.batches.batch_order`; it knows nothing of pacing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def drawn_by_weight(weights: Sequence[float], batch_size: int, iteration: int, seed: int) -> list[int]:
    """The problems of step `iteration` (from 0): `batch_size` draws with replacement, each in proportion to
    `weights`.

    Trained with weight 1 they have the same expected gradient as all problems with their weights of mean 1,
    at a variance per text that is smaller by ESS/N (docs/method.md, 1). Depends on the arguments only, so
    that a resumed run needs no state.
    """
    shares = np.cumsum(np.asarray(weights, dtype=np.float64))
    places = np.random.default_rng([seed, iteration]).random(batch_size) * shares[-1]
    last = len(shares) - 1  # rounding may carry a place to the very end
    return np.minimum(np.searchsorted(shares, places, side="right"), last).tolist()


def easy_to_hard(draws: Sequence[int], pass_rates: Sequence[float]) -> list[int]:
    """All of a stage's draws, the easiest problems first; those of one pass rate stay in the order they had.

    Args:
        draws: indices of problems in the order in which they would be trained, repeats included.
        pass_rates: of the problems.
    """
    return sorted(draws, key=lambda index: -pass_rates[index])
