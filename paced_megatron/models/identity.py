"""Whether a Hugging Face folder is the one that something was measured on: hashes of what matters in it.

Each reads every byte, about a second a GB. The values are kept in run folders and in results: another formula
would have all of them measured anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from paced_megatron.problems.tokenizer import ALL_FILES as TOKENIZER
from paced_megatron.runtime.files import sha256

# What makes token ids of a text and text of ids, and where a text ends.
_TEXT = ("generation_config.json", *TOKENIZER, "*.jinja")


def weights_identity(folder: Path) -> str:
    """Of config.json and all weights: what hidden states follow from."""
    whole = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        whole.update(bytes.fromhex(sha256(path)))
    return whole.hexdigest()


def tokenizer_identity(folder: Path) -> str:
    """Of tokenizer, chat template and generation_config.json: what answers follow from beside the weights."""
    return _named(folder, _TEXT)


def fingerprint(folder: Path) -> str:
    """Of everything that decides what the model answers: weights, sizes, tokenizer, template."""
    return _named(folder, ("*.safetensors", "config.json", *_TEXT))


def _named(folder: Path, patterns: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
