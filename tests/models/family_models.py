"""Small random models of every family: no two sizes are equal, and no norm is all ones, no bias all zeros."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tiny_models import write_byte_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 301,  # no tensor-parallel size divides it
    "max_position_embeddings": 128,
    "initializer_range": 0.12,  # at 0.02 a model this narrow answers every prompt alike
}
TEXT_LENGTH = 64

# What the family has of its own. Llama's rope was first trained on 32 positions, half of the tests' texts,
# with factors other than the published ones, which Megatron knows by heart.
OWN: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 10, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
    "qwen2": {"head_dim": 10, "rope_parameters": {"rope_type": "default", "rope_theta": 70000.0}},
    "llama": {
        "head_dim": 10,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 300.0,
            "factor": 5.0,
            "low_freq_factor": 1.5,
            "high_freq_factor": 4.5,
            "original_max_position_embeddings": 32,
        },
    },
}


@dataclass(frozen=True)
class Variant:
    """A model to make: its family, whether its head is its embedding, its dtype, in how many files."""

    family: str
    tied: bool
    dtype: torch.dtype
    sharded: bool

    @property
    def name(self) -> str:
        return f"{self.family}-{'tied' if self.tied else 'untied'}-{str(self.dtype).removeprefix('torch.')}"


def make_model(folder: Path, variant: Variant, *, seed: int, **changes: Any) -> Path:
    """Write the model with a tokenizer into a folder, and return the folder.

    Norms and biases are drawn too: as they come from transformers (all ones, all zeros) one that is left out
    or swapped with another would not be seen.
    """
    write_byte_tokenizer(folder)
    config = AutoConfig.for_model(
        variant.family,
        **SIZES | OWN[variant.family] | {"tie_word_embeddings": variant.tied} | changes,
        eos_token_id=AutoTokenizer.from_pretrained(folder).eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                elif name.endswith("bias"):
                    parameter.normal_(std=0.3)
    size = "100KB" if variant.sharded else "5GB"
    model.to(variant.dtype).save_pretrained(folder, max_shard_size=size)
    return folder
