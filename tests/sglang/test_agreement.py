"""`paced check-rollout` on a real server: what agrees, and each thing that doesn't, shows.

That the three families agree is in test_export.py, whose servers it needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from paced_megatron import cli
from paced_megatron.models import mapping
from paced_megatron.rollout.sglang.client import ServerClient
from paced_megatron.rollout.sglang.weights import sync_weights
from paced_megatron.runtime.launch import free_port
from sglang_server import STARTUP_S
from tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(STARTUP_S + 120)]


def check(capsys, *arguments: str | Path) -> tuple[int, str]:
    """(exit code, what was said) of `paced check-rollout ARGUMENTS`."""
    capsys.readouterr()  # what was said before
    code = cli.main(["check-rollout", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_server_that_has_the_folder_s_weights_agrees(tiny_server, capsys, tmp_path):
    (tmp_path / "questions.txt").write_text("What is 3 + 4?\n\nHow many primes are there below 20?\n")
    code, said = check(
        capsys, tiny_server.folder, "--url", tiny_server.url, "--prompts", tmp_path / "questions.txt"
    )
    assert code == 0, said
    assert "They agree: one model." in said
    for pair in ("SGLang - Megatron", "SGLang - transformers", "Megatron - transformers"):
        assert pair in said


def test_another_version_of_the_weights_shows(tiny_server, capsys, tmp_path):
    other = make_tiny_qwen3(tmp_path / "other", seed=34)
    code, said = check(capsys, other, "--url", tiny_server.url)
    assert code == 1
    assert said.count("exceeded") == 2 and "The server does not have this folder's weights" in said
    assert "compute different models" not in said
    client = ServerClient(tiny_server.url)
    sync_weights([client], other, "other")
    try:
        assert check(capsys, other, "--url", tiny_server.url)[0] == 0
    finally:
        sync_weights([client], tiny_server.folder, "default")


def test_a_difference_of_one_weight_shows_with_its_token(tiny_server, capsys, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_server.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.q_norm.weight"][3] += 0.05
    save_file(tensors, folder / "model.safetensors")
    code, said = check(capsys, folder, "--url", tiny_server.url)
    assert code == 1 and "exceeded" in said and "token" in said
    assert check(capsys, folder, "--url", tiny_server.url, "--tolerance", "10")[0] == 0


def test_a_wrong_map_shows_as_megatron_against_both_others(tiny_server, capsys, monkeypatch):
    """The two halves of the first matrix of an MLP are swapped on the way in."""
    shard = mapping.Rule.shard

    def swapped(self, tensors, cut, rank):
        part = shard(self, tensors, cut, rank)
        return part.roll(len(part) // 2, 0) if "linear_fc1" in self.megatron else part

    monkeypatch.setattr(mapping.Rule, "shard", swapped)
    code, said = check(capsys, tiny_server.folder, "--url", tiny_server.url)
    assert code == 1
    assert said.count("exceeded") == 2 and "Megatron and transformers compute different models" in said
    assert "The server does not have" not in said


def test_another_chat_template_shows_though_the_weights_agree(tiny_server, capsys, tmp_path):
    folder = tmp_path / "other-template"
    shutil.copytree(tiny_server.folder, folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("assistant", "Assistant"))
    code, said = check(capsys, folder, "--url", tiny_server.url)
    assert code == 1
    assert "exceeded" not in said and "chat template make" in said and "Assistant" in said


def test_what_is_wrong_with_the_input_is_one_line_and_exit_code_2(tiny_server, capsys, tmp_path):
    larger = make_tiny_qwen3(tmp_path / "larger", seed=35, intermediate_size=96)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "long.txt").write_text("x" * 600)
    cut = tmp_path / "cut"
    shutil.copytree(tiny_server.folder, cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    folder, url = tiny_server.folder, tiny_server.url
    for arguments, message in (
        ((larger, "--url", url), "ffn_hidden_size differ"),
        ((cut, "--url", url), "truncated"),
        ((tmp_path / "nowhere", "--url", url), "nowhere"),
        ((folder, "--url", f"http://127.0.0.1:{free_port()}"), "--url http://127.0.0.1"),
        ((folder, "--url", url, "--prompts", tmp_path / "empty.txt"), "no line with a question"),
        ((folder, "--url", url, "--prompts", tmp_path / "long.txt"), "ask something shorter"),
        ((folder, "--url", url, "--prompts", tmp_path / "nothing.txt"), "nothing.txt: can't be read"),
        ((folder, "--url", url, "--tolerance", "0"), "has to be above 0"),
    ):
        code, said = check(capsys, *arguments)
        assert code == 2 and message in said and said.count("\n") == 1, said
    assert check(capsys, folder, "--url", url)[0] == 0  # the server lives
