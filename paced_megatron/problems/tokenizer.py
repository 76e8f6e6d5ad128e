"""The tokenizer of a model's folder, and whether two folders have the same one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paced_megatron.config import PromptConfig
from paced_megatron.errors import UserError
from paced_megatron.problems.prompts import read_chat_template

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of these makes a tokenizer
ALL_FILES = (
    *TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
# The parts of the tokenizer's JSON, beside its model, that decide which ids a text becomes.
PARTS = ("added_tokens", "normalizer", "pre_tokenizer")


def load_tokenizer(folder: Path, prompts: PromptConfig | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, never from the network; its chat template is prompts.chat_template's, if set.

    Raises UserError when the folder or its tokenizer files are missing or broken, or the template's file is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; student.path and teacher.path name Hugging Face folders")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        wanted = " or ".join(TOKENIZER_FILES)
        raise UserError(f"{folder}: no tokenizer in it ({wanted}); copy the model's own files there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare Exception for a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder}: its tokenizer cannot be loaded ({reason}); copy the model's anew"
        ) from error
    if prompts is not None and prompts.chat_template is not None:
        tokenizer.chat_template = read_chat_template(prompts.chat_template)
    return tokenizer


def same_tokenizer(student_folder: Path, teacher_folder: Path) -> None:
    """Raises UserError, naming what differs, unless both tokenizers make the same ids of every text.

    A divergence compares two distributions entry by entry, so that entry v must be the same token in both.
    The tokenizers themselves are compared, not their files' bytes; chat templates, the choice of special
    tokens (end of text, padding) and decoders may differ.
    """
    if Path(student_folder).resolve() == Path(teacher_folder).resolve():
        return
    if _have_equal_files(student_folder, teacher_folder):
        return  # the usual case, and seconds faster on a real vocabulary
    difference = next(_differences(_description(student_folder), _description(teacher_folder)), None)
    if difference is not None:
        raise UserError(
            f"the tokenizers of student ({student_folder}) and teacher ({teacher_folder}) differ: "
            f"{difference}; take a teacher of the student's family (teacher.path)"
        )


def _have_equal_files(student_folder: Path, teacher_folder: Path) -> bool:
    """Whether everything that makes a tokenizer is there byte for byte in both folders."""
    return all(_content(student_folder / name) == _content(teacher_folder / name) for name in ALL_FILES)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _description(folder: Path) -> dict[str, Any]:
    """The tokenizer's own JSON, with `vocabulary` ({id: token}, added tokens included) taken out of it."""
    backend = getattr(load_tokenizer(folder), "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{folder}: its tokenizer has no fast form (tokenizer.json); it cannot be compared")
    description = json.loads(backend.to_str())
    for token in description["added_tokens"]:
        token.pop("special")  # decides what decoding may skip, not which ids there are
    description["vocabulary"] = {id: token for token, id in backend.get_vocab(with_added_tokens=True).items()}
    return description


def _differences(student: dict[str, Any], teacher: dict[str, Any]) -> Iterator[str]:
    """What differs, in words, the most telling first."""
    ours, theirs = student["vocabulary"], teacher["vocabulary"]
    if len(ours) != len(theirs):
        yield f"vocabulary size ({len(ours)} and {len(theirs)})"
    for id in sorted(ours.keys() | theirs.keys()):
        if ours.get(id) != theirs.get(id):
            yield f"token {id} ({ours.get(id)!r} and {theirs.get(id)!r})"
            break
    our_merges, their_merges = (side["model"].get("merges") or [] for side in (student, teacher))
    for index, (one, other) in enumerate(zip(our_merges, their_merges, strict=False)):
        if one != other:
            yield f"merge {index} ({' + '.join(one)} and {' + '.join(other)})"
            break
    if len(our_merges) != len(their_merges):
        yield f"number of merges ({len(our_merges)} and {len(their_merges)})"
    for key in sorted(student["model"].keys() | teacher["model"].keys()):
        # "" and null mean the same there, and which one it is depends on who wrote the file.
        if (student["model"].get(key) or None) != (teacher["model"].get(key) or None):
            yield f"the model's {key}"
    for part in PARTS:
        if student[part] != teacher[part]:
            yield part
