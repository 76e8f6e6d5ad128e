"""Small random models with everything a real folder has, made in a moment.

Every dimension differs from every other, so that a missing transpose or a swapped size cannot hide, and the
norms' weights are not all ones, so that a norm left out is seen.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

# Qwen's form without its tools and thinking: enough for prompts, and the keyword is there for tests of
# template arguments.
CHATML_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_byte_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of the 256 bytes, a few merges and Qwen's special tokens; return the folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("1", "0"), ("a", "n"), ("an", "d")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML_TEMPLATE,
    )
    fast.save_pretrained(folder)
    return folder


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Save the tokenizer in `source` into `folder`, with a ChatML template where it has none."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML_TEMPLATE
    tokenizer.save_pretrained(folder)


def make_tiny_qwen3(
    folder: Path,
    *,
    seed: int = 0,
    hidden_size: int = 48,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    head_dim: int = 16,
    intermediate_size: int = 80,
    num_hidden_layers: int = 3,
    vocab_size: int | None = None,
    tie_word_embeddings: bool = False,
    max_position_embeddings: int = 512,
    dtype: torch.dtype = torch.float32,
    tokenizer: Path | None = None,
) -> Path:
    """Write a random Qwen3 (config.json, model.safetensors, tokenizer) into a folder and return the folder.

    `vocab_size=None` takes the tokenizer's length, rounded up to an odd number so that no tensor-parallel
    size divides it. `tokenizer` is a folder to copy the tokenizer from; None writes one of bytes. The global
    random state is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        write_byte_tokenizer(folder)
    else:
        copy_tokenizer(tokenizer, folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    config = Qwen3Config(
        vocab_size=vocab_size if vocab_size is not None else len(loaded) | 1,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        tie_word_embeddings=tie_word_embeddings,
        max_position_embeddings=max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},  # Megatron's own default is 10000
        initializer_range=0.15,  # at 0.02 a model this narrow answers every prompt alike
        bos_token_id=None,
        eos_token_id=loaded.eos_token_id,
        pad_token_id=loaded.pad_token_id,
        dtype=str(dtype).removeprefix("torch."),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    return folder
