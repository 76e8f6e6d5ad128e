"""Token weights nu: how much each token of a text counts, from what the two models think of it.

They multiply the coefficients that problem weight and normalization have given (docs/method.md, 3): detached,
signed, and never in the denominator. Pure functions of numbers per token, without Megatron; the forward pass
that gets the numbers is `token_pass.py`. A method is a row of `TOKEN_WEIGHTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import torch
from torch import Tensor

from paced_megatron.config import TrainingConfig

CLIP_QUANTILE = 0.98  # TIP clips the entropy at this quantile of the batch


@dataclass(frozen=True)
class TokenStatistics:
    """What is known of N tokens, text after text; [N] float64 each, on the CPU, in nats, at the divergence's
    temperature.

    Attributes:
        divergence: the stage's own, not weighted.
        student_log_prob, teacher_log_prob: of the text's token.
        lengths: tokens of each text; their sum is N.
    """

    divergence: Tensor
    student_entropy: Tensor
    teacher_entropy: Tensor
    student_log_prob: Tensor
    teacher_log_prob: Tensor
    lengths: Sequence[int]


@dataclass(frozen=True)
class TokenWeights:
    """Attributes:
    weigh: statistics of at least one token -> nu, [N] float64, of either sign; a token of 0 costs no product
        with the vocabulary.
    whole_batch: nu depends on other tokens of the global batch too. Then `weigh` is called once a step with
        all of them, but for those of problems of weight 0, and that takes one more forward pass of the
        student. Else it is called for each micro-batch within the ordinary pass.
    """

    weigh: Callable[[TokenStatistics], Tensor]
    whole_batch: bool


def soft_or_kept(statistics: TokenStatistics, kept: float) -> Tensor:
    """TIP (arXiv 2604.14084): of each text the floor(kept x T) tokens that are the most uncertain or the
    furthest from the teacher.

    The score is h + d - h d: h the student's entropy, clipped at the batch's quantile CLIP_QUANTILE, d the
    divergence, both scaled to 0..1 over the batch. At least one token of a text is kept; of two alike the
    earlier one. A kept token's nu is T over the number kept, so that a text's mean is over its kept tokens.
    """
    entropy = statistics.student_entropy
    h = _scaled(entropy.clamp(max=quantile(entropy, CLIP_QUANTILE)))
    d = _scaled(statistics.divergence)
    parts = []
    for score in (h + d - h * d).split(list(statistics.lengths)):
        count = max(int(Decimal(str(kept)) * len(score)), 1)  # in floats 0.7 of 90 tokens are 62
        order = score.argsort(descending=True, stable=True)
        weights = torch.zeros_like(score)
        weights[order[:count]] = len(score) / count
        parts.append(weights)
    return torch.cat(parts)


def _scaled(values: Tensor) -> Tensor:
    """From 0 at the smallest to 1 at the largest; all 0 where they are alike."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def quantile(values: Tensor, q: float) -> float:
    """Between the two nearest values in proportion, as numpy's default; torch's refuses more than 2^24."""
    ordered = values.sort().values
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below].lerp(ordered[above], place - below))


def _tip(training: TrainingConfig) -> TokenWeights:
    return TokenWeights(partial(soft_or_kept, kept=training.token_weights_kept), whole_batch=True)


# By training.token_weights.
TOKEN_WEIGHTS: dict[str, Callable[[TrainingConfig], TokenWeights | None]] = {
    "none": lambda training: None,
    "tip": _tip,
}


def make_token_weights(training: TrainingConfig) -> TokenWeights | None:
    """What the configuration asks for; None: every token counts alike, and nothing is measured."""
    return TOKEN_WEIGHTS[training.token_weights](training)
