"""The keys of `pacing`: how a pass rate becomes a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from paced_megatron.config.key import Key


@dataclass(frozen=True)
class PacingConfig:
    """How a pass rate p becomes a problem's weight."""

    kernel: Annotated[
        Literal["beta", "uniform"], Key("`beta`: p^alpha (1-p)^beta; `uniform`: 1 for every problem kept")
    ] = "beta"
    alpha: Annotated[float, Key("exponent of p in the beta kernel", at_least=0)] = 1.0
    beta: Annotated[float, Key("exponent of 1-p in the beta kernel", at_least=0)] = 1.0
    keep: Annotated[
        Literal["frontier", "solvable", "unmastered", "all"],
        Key(
            "which problems are trained on, k of K attempts being correct: `frontier` 0 < k < K; `solvable` "
            "k > 0; `unmastered` k < K; `all`"
        ),
    ] = "frontier"
    permute: Annotated[
        bool,
        Key("a control: the weights are dealt out anew, at random, among the problems kept (follows seed)"),
    ] = False
