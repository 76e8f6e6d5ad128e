"""Loading a folder's tokenizer, and telling apart the tokenizers of student and teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paced_megatron.errors import UserError
from paced_megatron.problems.tokenizer import load_tokenizer, same_tokenizer


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a tokenizer's folder with its tokenizer.json changed."""
    shutil.copytree(source, target)
    content = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (target / "tokenizer.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return target


def swap_tokens(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab["th"], vocab["in"] = vocab["in"], vocab["th"]


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[2], merges[3] = merges[3], merges[2]


def drop_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"].pop()


def add_token(content: dict[str, Any]) -> None:
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 266, "content": "<think>"})


def strip_before_added_token(content: dict[str, Any]) -> None:
    content["added_tokens"][-1]["lstrip"] = True


def normalize(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "NFC"}


def put_a_space_first(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["add_prefix_space"] = True


def ignore_merges(content: dict[str, Any]) -> None:
    content["model"]["ignore_merges"] = True


DIFFERENCES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (swap_tokens, "token 256 ('th' and 'in');"),
    (swap_merges, "merge 2 (i + n and e + r);"),
    (drop_merge, "number of merges (7 and 6);"),
    (add_token, "vocabulary size (266 and 267);"),
    (strip_before_added_token, "added_tokens;"),
    (normalize, "normalizer;"),
    (put_a_space_first, "pre_tokenizer;"),
    (ignore_merges, "the model's ignore_merges;"),
]


@pytest.mark.parametrize(("change", "difference"), DIFFERENCES)
def test_tokenizers_that_differ_are_refused_with_what_differs(
    byte_tokenizer: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], difference: str
) -> None:
    teacher = changed(byte_tokenizer, tmp_path / "teacher", change)
    with pytest.raises(UserError) as caught:
        same_tokenizer(byte_tokenizer, teacher)
    assert str(caught.value) == (
        f"the tokenizers of student ({byte_tokenizer}) and teacher ({teacher}) differ: {difference} "
        "take a teacher of the student's family (teacher.path)"
    )


def new_look(content: dict[str, Any]) -> None:
    """What changes the files' bytes and no token's id."""
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # the older spelling
    content["model"]["continuing_subword_prefix"] = ""
    content["added_tokens"][1]["special"] = False
    content["padding"] = None


def test_other_bytes_and_another_chat_template_are_the_same_tokenizer(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    teacher = changed(byte_tokenizer, tmp_path / "teacher", new_look)
    (teacher / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert (teacher / "tokenizer.json").read_bytes() != (byte_tokenizer / "tokenizer.json").read_bytes()
    same_tokenizer(byte_tokenizer, teacher)


def test_one_folder_has_the_same_tokenizer_as_itself(byte_tokenizer: Path) -> None:
    same_tokenizer(byte_tokenizer, byte_tokenizer)


def test_the_real_qwen3_tokenizer_is_the_same_with_and_without_its_configuration(
    test_data: Path, tmp_path: Path
) -> None:
    """transformers then builds it in two ways: by the class Qwen2Tokenizer, or from tokenizer.json alone."""
    qwen3 = test_data / "qwen3-tokenizer"
    shutil.copy(qwen3 / "tokenizer.json", tmp_path)
    same_tokenizer(qwen3, tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: no such folder; student.path and teacher.path name Hugging Face folders"
    )
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no tokenizer in it (tokenizer.json or tokenizer.model or vocab.json); "
        "copy the model's own files there"
    )


@pytest.mark.parametrize("content", ["{", '{"model": 3}', ""])
def test_a_broken_tokenizer_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path}: its tokenizer cannot be loaded (")
