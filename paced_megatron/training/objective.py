"""What a step minimises, beside the weights that come with its texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paced_megatron.training.token_weights import TokenWeights


@dataclass(frozen=True)
class Objective:
    """Which divergence with which parameter, over how many real entries of the vocabulary, at which
    temperature, in how much workspace and with which kernels; and what its tokens are weighted by (None: all
    alike)."""

    divergence: str
    vocab_size: int
    parameter: float | None = None
    temperature: float = 1.0
    workspace_mb: float | None = None
    kernels: str = "auto"
    token_weights: TokenWeights | None = None

    @property
    def of_divergence(self) -> dict[str, Any]:
        """Keyword arguments of `weighted_divergence` and `divergence_statistics` alike."""
        return {
            "divergence": self.divergence,
            "parameter": self.parameter,
            "temperature": self.temperature,
            "vocab_size": self.vocab_size,
            "workspace_mb": self.workspace_mb,
            "kernels": self.kernels,
        }
