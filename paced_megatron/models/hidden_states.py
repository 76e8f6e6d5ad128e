"""The final hidden states of a Hugging Face folder's model under transformers and under Megatron-Core, and
the log-probabilities that follow from them; in float32, on the CPU, in one process.

Slow and plain: this is what others are compared with (a server's answers, a converter's result).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paced_megatron.errors import UserError
from paced_megatron.models.families import model_shape
from paced_megatron.models.mapping import rules
from paced_megatron.models.weight_files import WeightFiles, check_weights

ROWS_AT_ONCE = 64  # of logits: 40 MB with a vocabulary of 152,000


@dataclass(frozen=True)
class HiddenStates:
    """What a model makes of some texts.

    Attributes:
        texts: by text, float32 [its length, H], after the last norm.
        head: float32 [V, H]; the embedding where they are tied.
    """

    texts: tuple[Tensor, ...]
    head: Tensor

    def log_softmax_at(self, text: int, positions: slice) -> Tensor:
        """Log-probabilities over the vocabulary of the token that follows each position, float32
        [positions, V]."""
        return F.linear(self.texts[text][positions], self.head).log_softmax(-1)

    def log_probabilities(self, text: int, ids: Sequence[int]) -> Tensor:
        """Log-probabilities of a text's tokens from the second on, each given those before it, float32
        [length - 1]. `ids`: the text."""
        following = torch.tensor(ids[1:])[:, None]
        parts = [
            self.log_softmax_at(text, slice(start, start + len(wanted))).gather(1, wanted)[:, 0]
            for start, wanted in zip(
                range(0, len(following), ROWS_AT_ONCE), following.split(ROWS_AT_ONCE), strict=True
            )
        ]
        return torch.cat(parts)


@torch.no_grad()
def transformers_states(folder: Path, texts: Sequence[Sequence[int]]) -> HiddenStates:
    """transformers' modules and forward pass, with the weights of one layer at a time: the memory is that of
    the largest layer (or of the head) in float32, the time that of reading the folder once.

    Raises:
        UserError: the folder is not whole, or an id is not in its vocabulary.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # takes seconds

    padded = _padded(folder, texts)
    files = WeightFiles(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # The frequencies are no parameters: nothing would fill them.
    with torch.device("cpu"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    parts = {"model.embed_tokens.": model.model.embed_tokens, "model.norm.": model.model.norm}
    parts |= {f"model.layers.{number}.": layer for number, layer in enumerate(model.model.layers)}
    for prefix, part in parts.items():
        part.register_forward_pre_hook(_filling(files, prefix))
        part.register_forward_hook(_emptying)
    hidden = model.model(padded, use_cache=False).last_hidden_state
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return HiddenStates(_cut(hidden, texts), files[head].float())


def _filling(files: WeightFiles, prefix: str) -> Callable[..., None]:
    def fill(module: torch.nn.Module, args: Any) -> None:
        names = [name for name, _ in module.named_parameters()]
        module.load_state_dict({name: files[prefix + name].float() for name in names}, assign=True)

    return fill


def _emptying(module: torch.nn.Module, args: Any, output: Any) -> None:
    module.load_state_dict(
        {name: tensor.to("meta") for name, tensor in module.state_dict().items()}, assign=True
    )


@torch.no_grad()
def megatron_states(folder: Path, texts: Sequence[Sequence[int]]) -> HiddenStates:
    """Our GPTModel, filled by our map as for training. The whole model is in memory, in float32. Not within a
    job: this process plays one.

    Raises:
        UserError: as above.
    """
    # Megatron takes seconds to import, and nothing else here needs it.
    from paced_megatron.models.folder import load_weights
    from paced_megatron.models.gpt import build_model
    from paced_megatron.runtime.world import job_of_one, parallel_groups

    padded, shape = _padded(folder, texts), model_shape(folder)
    with job_of_one():
        groups = parallel_groups(1, seed=0)
        model = build_model(shape, groups, torch.float32)
        load_weights(model, shape, folder, groups)
        hidden = model(padded, torch.arange(padded.shape[1]).expand_as(padded), None).transpose(0, 1)
        return HiddenStates(_cut(hidden, texts), model.head[: shape.vocab_size].clone())


def bytes_in_float32(folder: Path) -> int:
    """What all weights of a folder's model take in memory."""
    return 4 * sum(rule.numel for rule in rules(model_shape(folder)))


def _padded(folder: Path, texts: Sequence[Sequence[int]]) -> Tensor:
    """int64 [texts, the longest], filled up at the right, where attention does not look back from."""
    shape = model_shape(folder)
    check_weights(folder, shape)
    for text in texts:
        if not text or not 0 <= min(text) <= max(text) < shape.vocab_size:
            raise UserError(f"{folder}: a text is empty or has an id outside 0 to {shape.vocab_size - 1}")
        if len(text) > shape.max_position_embeddings:
            raise UserError(
                f"{folder}: a text of {len(text)} tokens, but max_position_embeddings is "
                f"{shape.max_position_embeddings}"
            )
    padded = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return padded


def _cut(hidden: Tensor, texts: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    return tuple(row[: len(text)].clone() for row, text in zip(hidden, texts, strict=True))
