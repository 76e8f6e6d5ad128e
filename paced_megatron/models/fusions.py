"""Which of Megatron's fused functions a model uses, by its layers and its device.

A fused function gives what the plain one gives, rounded fewer times: on a GPU the same to bf16 rounding. On
the CPU all are off, and the digits those of the plain functions.

| field | on | why |
|---|---|---|
| bias_activation_fusion | on a GPU | SwiGLU by torch's compiler: one kernel, which keeps only gate and up |
| apply_rope_fusion | with Transformer Engine | its kernel; with packed texts the plain one waits |
| masked_softmax_fusion | never | on a GPU no attention here makes the scores |
| bias_dropout_fusion | never | without bias and dropout one addition is left |
| persist_layer_norm | never | a field of apex's norm, which is not used |
| gradient_accumulation_fusion | not here | it needs gradient buffers: the student's settings say it |
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

# A module of its own, which NVIDIA's apex installs when it is built with its CUDA extensions. A matmul then
# adds a weight's gradient into main_grad itself.
APEX_GRADIENT_ACCUMULATION = "fused_weight_gradient_mlp_cuda"


def model_device() -> torch.device:
    """Where models are made: what Megatron takes for its current device (runtime/cpu.py), a GPU's number
    where there is one."""
    current = torch.cuda.current_device()
    return torch.device("cuda", current) if isinstance(current, int) else torch.device(current)


def fusions(transformer_impl: str) -> dict[str, bool]:
    """Fields of TransformerConfig, for "local" or "transformer_engine" layers on the current device."""
    gpu = model_device().type == "cuda"
    return {
        "bias_activation_fusion": gpu,
        "apply_rope_fusion": gpu and transformer_impl == "transformer_engine",
        "masked_softmax_fusion": False,
        "bias_dropout_fusion": False,
        "persist_layer_norm": False,
    }


def adds_gradients() -> bool:
    """Whether `gradient_accumulation_fusion` can be had: on a GPU with apex's module for it."""
    return model_device().type == "cuda" and find_spec(APEX_GRADIENT_ACCUMULATION) is not None
