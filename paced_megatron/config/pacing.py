"""The keys of `pacing`: how a pass rate becomes a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from paced_megatron.config.key import Key


@dataclass(frozen=True)
class PacingConfig:
    """How a pass rate p becomes a problem's weight."""

    kernel: Annotated[
        Literal["beta", "beta_fitted", "sqrt", "gaussian", "band", "uniform"],
        Key(
            "`beta`: p^alpha (1-p)^beta; `beta_fitted`: the same with its peak at the frontier's mean pass "
            "rate; `sqrt`: sqrt(p(1-p)); `gaussian`; `band`: 1 between band_low and band_high, else 0; "
            "`uniform`: 1 for every problem kept"
        ),
    ] = "beta"
    alpha: Annotated[float, Key("exponent of p in the beta kernel", at_least=0)] = 1.0
    beta: Annotated[float, Key("exponent of 1-p in the beta kernel", at_least=0)] = 1.0
    gaussian_mean: Annotated[
        float, Key("pass rate at which the gaussian kernel is 1", at_least=0, at_most=1)
    ] = 0.5
    gaussian_std: Annotated[float, Key("standard deviation of the gaussian kernel", above=0)] = 0.2
    band_low: Annotated[float, Key("lowest pass rate of the band kernel", at_least=0, at_most=1)] = 0.2
    band_high: Annotated[float, Key("highest pass rate of the band kernel", at_least=0, at_most=1)] = 0.8
    estimator: Annotated[
        Literal["auto", "plugin", "unbiased", "posterior"],
        Key(
            "the kernel's value from k of K: `plugin`, at k/K; `unbiased`, for the beta kernel with whole "
            "exponents; `posterior`, its mean under a prior fitted to the counts; `auto`: `posterior` where "
            "K is below 8 or differs between problems, else `plugin`"
        ),
    ] = "auto"
    keep: Annotated[
        Literal["frontier", "solvable", "unmastered", "all"],
        Key(
            "which problems are trained on, k of K attempts being correct: `frontier` 0 < k < K; `solvable` "
            "k > 0; `unmastered` k < K; `all`. Those whose weight is 0 are left out as well"
        ),
    ] = "frontier"
    floor: Annotated[
        float, Key("the kernel's value is at least this for what is kept; p(1-p) is 0.25 at most", at_least=0)
    ] = 0.0
    normalize: Annotated[
        Literal["kept", "all"],
        Key("the weights have mean 1 over the problems kept, or over all that were measured, the rest as 0"),
    ] = "kept"
    apply: Annotated[
        Literal["weight", "sample"],
        Key(
            "`weight`: every problem kept in turn, its loss times its weight; `sample`: problems are drawn "
            "with replacement in proportion to their weights, and their loss counts once"
        ),
    ] = "weight"
    order: Annotated[
        Literal["shuffled", "easy_to_hard"],
        Key(
            "`shuffled`: epochs, each in an order of its own; `easy_to_hard`: the same texts as often, "
            "sorted by pass rate over the whole stage"
        ),
    ] = "shuffled"
    discount: Annotated[
        float,
        Key(
            "with `text: rollouts`: at each visit to a problem its earlier attempts count this much of what "
            "they did, the opening ones too; 0: a step's own attempts alone; wants `estimator: posterior`",
            at_least=0,
            at_most=1,
        ),
    ] = 0.0
    permute: Annotated[
        bool,
        Key("a control: the weights are dealt out anew, at random, among the problems kept (follows seed)"),
    ] = False
