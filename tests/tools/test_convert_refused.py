"""What the converter must not change in silence: dtypes, adapters, links; and disks that are read-only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paced_megatron.commands import convert as command
from paced_megatron.models.checkpoint_metadata import TRACKER
from paced_megatron.models.weight_files import WeightFiles
from small_disk import remount, small_disk
from tiny_models import make_tiny_qwen3

QUERY, KEY, VALUE = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv")
NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("made") / "source", seed=32, num_hidden_layers=2)


@pytest.fixture
def source(made, tmp_path) -> Path:
    """A copy of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "source"))


def change(source: Path, **tensors: torch.Tensor) -> None:
    path = source / "model.safetensors"
    save_file(load_file(path) | tensors, path)


def refused(capsys, *argv: str | Path, direction: str = "to-megatron") -> str:
    assert command.main(direction, [str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (KEY, f"{QUERY} is F32 and {KEY} is BF16"),
        (NORM, f"{NORM} is BF16 and {NORM.replace('0', '1')} is F32"),
    ],
)
def test_two_dtypes_in_one_tensor_of_the_checkpoint_are_refused_and_converted_with_a_dtype(
    source, tmp_path, capsys, of, told
):
    """Fused, the key would be rounded or widened; stacked, the checkpoint could not be read again."""
    change(source, **{of: load_file(source / "model.safetensors")[of].bfloat16()})
    assert told in refused(capsys, source, tmp_path / "out") and not (tmp_path / "out").exists()
    assert command.main("to-megatron", [str(source), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert command.main("to-hf", [str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    before, after = WeightFiles(source), WeightFiles(tmp_path / "back")
    for name in before.names():
        assert torch.equal(before[name].bfloat16(), after[name])


def test_norms_of_another_dtype_than_the_matrices_keep_theirs(source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    change(source, **{name: tensor.bfloat16() for name, tensor in tensors.items() if "norm" not in name})
    assert command.main("to-megatron", [str(source), str(tmp_path / "out")]) == 0
    assert command.main("to-hf", [str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    before, after = WeightFiles(source), WeightFiles(tmp_path / "back")
    assert {name: before.dtype(name) for name in before.names()} == {
        name: after.dtype(name) for name in after.names()
    }


@pytest.mark.parametrize("direction", ["to-megatron", "to-hf"])
def test_a_number_beyond_float16_is_named_before_it_becomes_infinite(source, tmp_path, capsys, direction):
    large = torch.full_like(load_file(source / "model.safetensors")[VALUE], -65_520.0)
    change(source, **{VALUE: large})
    given, out = source, tmp_path / "out"
    if direction == "to-hf":
        given = tmp_path / "checkpoint"
        assert command.main("to-megatron", [str(source), str(given)]) == 0
    said = refused(capsys, given, out, "--dtype", "float16", direction=direction)
    assert "a number of -6.55e+04 is beyond float16" in said and not out.exists()
    change(source, **{VALUE: large / 65_520 * 65_504})  # the largest that there is
    assert command.main("to-megatron", [str(source), str(tmp_path / "other"), "--dtype", "float16"]) == 0


def test_an_output_that_is_a_link_is_refused_and_left_as_it_was(source, tmp_path, capsys):
    """A folder would take its place, and what it led to would stay as it was."""
    there, link, dangling = tmp_path / "there", tmp_path / "link", tmp_path / "dangling"
    assert command.main("to-megatron", [str(source), str(there)]) == 0
    link.symlink_to(there)
    dangling.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    assert f"{link}: a symbolic link" in refused(capsys, source, link, "--overwrite")
    assert f"name {tmp_path / 'nowhere'} itself" in refused(capsys, source, dangling)
    assert sorted(tmp_path.iterdir()) == before and link.is_symlink()


def test_an_output_on_a_read_only_disk_is_told_before_anything_is_read(source, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "50m") as disk:
        remount(disk, "ro")
        said = refused(capsys, source, disk / "out")
        assert f"its parent folder {disk} may not be written" in said


def test_all_chat_templates_of_a_tokenizer_come_back(source, tmp_path):
    """As transformers writes more than one: the default beside the tokenizer, the others in a folder."""
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    assert command.main("to-megatron", [str(source), str(tmp_path / "out")]) == 0
    assert command.main("to-hf", [str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    copy = tmp_path / "back" / "additional_chat_templates" / "tool_use.jinja"
    assert copy.read_text() == "{{ tools }}"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "\N{SUPERSCRIPT TWO}".encode()])
def test_a_tracker_file_of_garbage_is_one_line(tmp_path, capsys, content):
    (tmp_path / TRACKER).write_bytes(content)
    assert "neither an iteration's number" in refused(
        capsys, tmp_path, tmp_path.parent / "out", direction="to-hf"
    )


def test_an_adapter_beside_a_whole_model_is_refused(source, tmp_path, capsys):
    """transformers with peft adds it to what the weights say; and its copy alone would break the export."""
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "merge it into its base" in refused(capsys, source, tmp_path / "out")
    (source / "config.json").unlink()
    assert "merge it into its base" in refused(capsys, source, tmp_path / "out")


@pytest.mark.parametrize("size", ["0", "-1"])
@pytest.mark.parametrize("words", ["tensor", "pipeline"])
def test_a_layout_of_no_ranks_is_refused(source, capsys, words, size):
    said = refused(capsys, source, "--dry-run", f"--{words}-model-parallel-size", size)
    assert "have to be 1 or more" in said
