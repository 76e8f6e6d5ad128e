"""What a distillation step is given: the two models' sizes, folders of random weights, a batch of texts; and
how many floating-point operations it has to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from paced_megatron.models.families import model_shape
from paced_megatron.models.mapping import hugging_face_shapes

SEED = 13


@dataclass(frozen=True)
class Sizes:
    """A Qwen3 with tied embeddings, under the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @property
    def config(self) -> dict[str, object]:
        """config.json."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            **vars(self),
        }

    def body_flop(self, batch: int, length: int) -> float:
        """One forward pass of the layers over `batch` texts of `length` tokens: two for each weight of a
        matrix and token, and causal attention's two products, of which half is needed."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        weights = self.hidden_size * (2 * queries + 2 * keys + 3 * self.intermediate_size)
        attention = 2 * length**2 * queries
        return self.num_hidden_layers * batch * (2.0 * weights * length + attention)

    def head_flop(self, tokens: int) -> float:
        """One product with the head."""
        return 2.0 * self.vocab_size * self.hidden_size * tokens


@dataclass(frozen=True)
class Pair:
    student: Sizes
    teacher: Sizes


REAL = Pair(Sizes(1024, 3072, 28, 16, 8, 128, 151_936), Sizes(2048, 6144, 28, 16, 8, 128, 151_936))
"""Qwen3-0.6B and Qwen3-1.7B"""

TINY = Pair(Sizes(32, 48, 2, 4, 2, 8, 257), Sizes(40, 56, 3, 6, 3, 8, 257))
"""for --dry-run"""


@dataclass(frozen=True)
class Batch:
    """Texts of one length, random ids, the same for all variants.

    Attributes:
        tokens: [batch, length] int64, on the CPU.
        prompt: tokens of each text that the loss does not count.
    """

    tokens: torch.Tensor
    prompt: int

    @classmethod
    def of(cls, batch: int, length: int, vocab_size: int) -> Batch:
        """A quarter of each text is its prompt."""
        generator = torch.Generator().manual_seed(SEED)
        tokens = torch.randint(vocab_size, (batch, length), generator=generator)
        return cls(tokens, max(1, length // 4))

    @property
    def size(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def response_tokens(self) -> int:
        return self.size * (self.length - self.prompt)


def useful_flop(pair: Pair, batch: Batch) -> float:
    """What the step needs, whoever does it: the student's forward and backward pass (three forward passes),
    the teacher's forward pass, and the heads where the loss counts."""
    layers = 3 * pair.student.body_flop(batch.size, batch.length) + pair.teacher.body_flop(
        batch.size, batch.length
    )
    return layers + _heads(pair, batch.response_tokens)


def done_flop(pair: Pair, batch: Batch, *, all_logits: bool, recompute: bool) -> float:
    """What a variant really multiplies: the heads on all tokens, where it makes logits of all, and the
    student's layers once more, where they are computed again in the backward pass."""
    heads = _heads(pair, batch.size * batch.length) - _heads(pair, batch.response_tokens)
    again = pair.student.body_flop(batch.size, batch.length)
    return useful_flop(pair, batch) + all_logits * heads + recompute * again


def _heads(pair: Pair, tokens: int) -> float:
    return 3 * pair.student.head_flop(tokens) + pair.teacher.head_flop(tokens)


def room(needed_bytes: int) -> str | None:
    """A folder for the models: in memory where there is room, else the usual one."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > needed_bytes else None


def write_models(pair: Pair, folder: Path, dtype: torch.dtype, device: str) -> None:
    """`student` and `teacher` under `folder`: Hugging Face folders of random weights, normal with a deviation
    of 0.02, norms 1. All variants read them, so that all compute the same loss."""
    for number, (name, sizes) in enumerate((("student", pair.student), ("teacher", pair.teacher))):
        path = folder / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(sizes.config))
        generator = torch.Generator(device).manual_seed(SEED + number)
        draw = _drawing(generator, dtype, device)
        weights = {key: draw(size) for key, size in hugging_face_shapes(model_shape(path)).items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _drawing(
    generator: torch.Generator, dtype: torch.dtype, device: str
) -> Callable[[tuple[int, ...]], torch.Tensor]:
    def draw(size: tuple[int, ...]) -> torch.Tensor:
        if len(size) == 1:  # a norm
            return torch.ones(size, dtype=dtype)
        return torch.randn(size, generator=generator, device=device).mul_(0.02).to(dtype).cpu()

    return draw
