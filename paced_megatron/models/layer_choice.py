"""Whose layers a model is built from, and why: Transformer Engine's or Megatron-Core's own, the local ones.

Transformer Engine's where it can be used (runtime/extensions.py), the models are on a GPU, and their weights
bfloat16: its fused attention takes no float32, and the one that is left holds all scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paced_megatron.errors import UserError
from paced_megatron.runtime.extensions import transformer_engine_missing, transformer_engine_version

AUTO, LOCAL, TRANSFORMER_ENGINE = "auto", "local", "transformer_engine"
KEY = "training.transformer_impl"
FP8_CAPABILITY = (8, 9)  # Ada; Hopper is 9.0
_WHOSE = {LOCAL: "Megatron-Core's own", TRANSFORMER_ENGINE: "Transformer Engine's"}


@dataclass(frozen=True)
class LayerChoice:
    """Attributes:
    transformer_impl: "local" or "transformer_engine", Megatron's field of that name.
    why: half a sentence.
    warning: Transformer Engine is installed and can't be used, and what could be; empty: not so.
    """

    transformer_impl: str
    why: str
    warning: str = ""

    @property
    def line(self) -> str:
        """For the log."""
        return f"layers: {_WHOSE[self.transformer_impl]} ({self.why})"


def choose_layers(
    wanted: str, device: torch.device, params_dtype: torch.dtype, fp8: str | None = None
) -> LayerChoice:
    """The layers of models on `device` whose weights are of this type.

    Args:
        wanted: "auto", "local" or "transformer_engine".
        fp8: Megatron's field of that name, which needs Transformer Engine; None: not asked for.

    Raises:
        UserError: Transformer Engine is asked for, by name or through fp8, and can't be used.
    """
    asked, instead = _asked(wanted, fp8)
    if wanted == LOCAL:
        if fp8 is not None:
            raise UserError(f"{asked} needs Transformer Engine's layers, not {KEY}={LOCAL}; {instead}")
        return LayerChoice(LOCAL, f"{KEY}={LOCAL}")
    if device.type != "cuda":
        if asked:
            raise UserError(f"{asked} needs a GPU, and none is used here; {instead}")
        return LayerChoice(LOCAL, "no GPU is used")
    if params_dtype != torch.bfloat16:
        if asked:
            raise UserError(f"{asked} needs training.params_dtype=bfloat16; set that, or {instead}")
        return LayerChoice(LOCAL, "training.params_dtype is not bfloat16")
    missing = transformer_engine_missing()
    if missing is not None:
        if asked:
            raise UserError(f"{asked} can't be had: {missing}; install one that fits, or {instead}")
        if transformer_engine_version() is None:
            return LayerChoice(LOCAL, missing)
        slower = "attention, norms and optimizer are torch's instead, which is slower"
        return LayerChoice(LOCAL, missing, f"{missing}; {slower}")
    if fp8 is not None and (found := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
        raise UserError(
            f"{asked} needs a GPU of compute capability 8.9 or newer, and this one has "
            f"{found[0]}.{found[1]}; {instead}"
        )
    return LayerChoice(TRANSFORMER_ENGINE, f"{transformer_engine_version()} is installed, on a GPU")


def _asked(wanted: str, fp8: str | None) -> tuple[str, str]:
    """The key by which Transformer Engine is asked for, and what to set to go without; both empty: none."""
    asked = {f"{KEY}={wanted}": f"{KEY}={AUTO}"} if wanted == TRANSFORMER_ENGINE else {}
    if fp8 is not None:
        asked[f"training.fp8={fp8}"] = "training.fp8=null"
    return next(iter(asked), ""), f"set {' and '.join(asked.values())}" if asked else ""
