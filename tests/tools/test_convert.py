"""The converter's command line: what it says, what it refuses, and what is left when it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paced_megatron import cli
from paced_megatron.commands import convert as command
from paced_megatron.errors import UserError
from paced_megatron.models import convert, hf_writer, output
from paced_megatron.models.checkpoint_metadata import find_checkpoint
from paced_megatron.models.weight_files import WeightFiles
from small_disk import small_disk
from tiny_models import make_tiny_qwen3

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"to-megatron": "source", "to-hf": "checkpoint"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `source` (two shards and an index) and `checkpoint`, to be copied and spoiled."""
    folder = tmp_path_factory.mktemp("made")
    whole = make_tiny_qwen3(folder / "whole", seed=31, num_hidden_layers=2, tie_word_embeddings=True)
    tensors = load_file(whole / "model.safetensors")
    hf_writer.write_folder(
        iter(tensors.items()),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        source=whole,
        out=folder / "source",
        max_shard_size=150_000,
    )
    convert.to_megatron(folder / "source", folder / "checkpoint")
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A copy of them of the test's own."""
    for name in ("source", "checkpoint"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(place: Path, direction: str, *options: str) -> int:
    return command.main(direction, [str(place / GIVEN[direction]), str(place / "out"), *options])


def refused(place: Path, capsys, direction: str, *options: str) -> str:
    """The one line that a mistake is told in; exit code 2, and nothing new on the disk."""
    before = left_in(place)
    assert run(place, direction, *options) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said, said
    assert left_in(place) == before
    return said


def same_tensors(one: Path, other: Path) -> bool:
    before, after = WeightFiles(one), WeightFiles(other)
    return before.names() == after.names() and all(
        torch.equal(before[name], after[name]) for name in before.names()
    )


def test_both_tools_run_from_a_clone_and_verify_bits_and_logits(place):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for tool, given, out in (
        ("convert_hf_to_megatron.py", "source", "again"),
        ("convert_megatron_to_hf.py", "again", "back"),
    ):
        command = [sys.executable, ROOT / "tools" / tool, given, out, "--verify"]
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert "verifying: 1/1 MB" in done.stdout and "MB/s" in done.stdout
        assert "logits: the same to" in done.stdout and f"{out}: written" in done.stdout
        assert not done.stderr
    assert same_tensors(place / "source", place / "back")


def test_paced_convert_is_the_same_command(place, capsys):
    assert cli.main(["convert", "to-megatron", str(place / "source"), str(place / "again")]) == 0
    assert cli.main(["convert", "to-hf", str(place / "again"), str(place / "back")]) == 0
    assert same_tensors(place / "source", place / "back")
    assert cli.main(["convert", "to-hf", str(place / "source"), str(place / "x")]) == 2
    assert "no Megatron checkpoint here" in capsys.readouterr().err


@pytest.mark.parametrize("direction", GIVEN)
def test_help_has_examples_and_the_exit_codes(direction, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(direction, ["--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"python tools/{command.DIRECTIONS[direction].tool} " in said and "Exit codes: 0" in said


@pytest.mark.parametrize("direction", GIVEN)
def test_a_dry_run_prints_each_tensor_once_with_its_shapes_and_ranks_and_writes_nothing(
    place, capsys, direction
):
    before = left_in(place)
    layout = ("--tensor-model-parallel-size", "2", "--pipeline-model-parallel-size", "2")
    assert run(place, direction, "--dry-run", *layout) == 0
    assert left_in(place) == before
    lines = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[: lines.index("")]]
    assert table[0] == ["Hugging Face", "shape", "Megatron", "shape on each rank", "ranks"]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert len(rows) == len(table) - 1 and rows.keys() == WeightFiles(place / "source").names()
    # Six heads' worth of rows and two groups of keys and values, over two ranks; 48 hidden; layers 0 and 1.
    qkv = "decoder.layers.self_attention.linear_qkv.weight[1]"
    assert rows["model.layers.1.self_attn.k_proj.weight"] == ["32 x 48", qkv, "64 x 48", "2-3"]
    # The tied head is a copy of the embedding on the last stage: on all four ranks.
    embedding = rows["model.embed_tokens.weight"]
    assert embedding[1] == "embedding.word_embeddings.weight" and embedding[3] == "0-3"
    assert "Nothing was written" in lines[-1]


def test_a_name_that_is_no_folder_is_looked_for_on_the_hub(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert command.main("to-megatron", ["nobody/nothing", str(place / "out")]) == 2
    said = capsys.readouterr().err
    assert "nobody/nothing: no such folder" in said and "hf download nobody/nothing" in said


def test_a_dry_run_needs_no_weights(place, capsys):
    (place / "bare").mkdir()
    shutil.copyfile(place / "source" / "config.json", place / "bare" / "config.json")
    assert command.main("to-megatron", [str(place / "bare"), "--dry-run"]) == 0
    assert "model.embed_tokens.weight" in capsys.readouterr().out


def spoil_config(**changes):
    def spoil(place: Path) -> None:
        for path in (
            place / "source" / "config.json",
            place / "checkpoint" / "hugging_face" / "config.json",
        ):
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def drop_tensor(place: Path) -> None:
    path = place / "source" / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    tensors.pop("model.layers.0.input_layernorm.weight")
    save_file(tensors, path)


def only_a_pickle(place: Path) -> None:
    for path in (place / "source").glob("model*"):
        path.unlink()
    (place / "source" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def truncate(path: str, size: int):
    return lambda place: os.truncate(place / path, size)


SOURCE_MISTAKES = {
    "a shard is missing": (
        lambda place: (place / "source" / "model-00002-of-00002.safetensors").unlink(),
        "model-00002-of-00002.safetensors: missing",
    ),
    "a shard is cut off": (
        truncate("source/model-00002-of-00002.safetensors", 5000),
        "model-00002-of-00002.safetensors: can't be read as safetensors",
    ),
    "a tensor is missing": (drop_tensor, "model.layers.0.input_layernorm.weight is missing"),
    "a tensor too many": (
        spoil_config(num_hidden_layers=1, layer_types=None),
        "model.layers.1.input_layernorm.weight has no place in the map",
    ),
    "another shape": (
        spoil_config(intermediate_size=84),
        "has shape [80, 48], but config.json says [84, 48]",
    ),
    "unknown architecture": (spoil_config(model_type="gpt2"), "model_type='gpt2' is not supported"),
    "a pickle": (only_a_pickle, "pytorch_model.bin is a pickle"),
}


@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_a_mistake_in_the_hugging_face_folder_is_one_line(place, capsys, mistake):
    spoil, said = SOURCE_MISTAKES[mistake]
    spoil(place)
    assert said in refused(place, capsys, "to-megatron")


class Evil:
    """A pickle that would leave a file behind where it is run."""

    trap = "/nonexistent"

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


def evil_metadata(place: Path) -> None:
    Evil.trap = str(place / "checkpoint" / "it-ran")
    (place / "checkpoint" / "release" / ".metadata").write_bytes(pickle.dumps(Evil()))


def evil_tensors(place: Path) -> None:
    """Every tensor's place in the files is taken by a pickle."""
    Evil.trap = str(place / "checkpoint" / "it-ran")
    for path in (place / "checkpoint" / "release").glob("*.distcp"):
        path.write_bytes((pickle.dumps(Evil()) * (path.stat().st_size // 20))[: path.stat().st_size])


def other_backend(place: Path) -> None:
    (place / "checkpoint" / "release" / "metadata.json").write_text('{"sharded_backend": "zarr"}')


def old_format(place: Path) -> None:
    shutil.rmtree(place / "checkpoint" / "release")
    (place / "checkpoint" / "release" / "mp_rank_00").mkdir(parents=True)


CHECKPOINT_MISTAKES = {
    "metadata cut off": (truncate("checkpoint/release/.metadata", 3000), ".metadata: can't be read"),
    "metadata of garbage": (
        lambda place: (place / "checkpoint/release/.metadata").write_bytes(b"garbage"),
        ".metadata: can't be read",
    ),
    "metadata missing": (
        lambda place: (place / "checkpoint/release/.metadata").unlink(),
        ".metadata: is missing",
    ),
    "metadata that runs a program": (evil_metadata, "it names posix.system"),
    "tensors that run a program": (evil_tensors, "can't be read"),
    "a file cut off": (truncate("checkpoint/release/__2_0.distcp", 900), "__2_0.distcp: is cut off"),
    "a file missing": (
        lambda place: (place / "checkpoint/release/__2_0.distcp").unlink(),
        "__2_0.distcp: is missing",
    ),
    "another backend": (other_backend, "the checkpoint is in format 'zarr'"),
    "the old format": (old_format, "Megatron's old format"),
    "torch's own format": (
        lambda place: (place / "checkpoint/release/metadata.json").unlink(),
        "metadata.json is missing",
    ),
    "no config.json with it": (
        lambda place: shutil.rmtree(place / "checkpoint/hugging_face"),
        "--source",
    ),
    "a tracker of garbage": (
        lambda place: (place / "checkpoint/latest_checkpointed_iteration.txt").write_text("latest"),
        "neither an iteration's number nor 'release'",
    ),
    "another shape": (
        spoil_config(intermediate_size=84),
        "linear_fc1.weight has shape [2, 160, 48], but config.json says [2, 168, 48]",
    ),
    "a tensor missing": (spoil_config(tie_word_embeddings=False), "output_layer.weight is missing"),
    "another architecture": (
        spoil_config(model_type="llama"),
        "k_layernorm.weight has no place in the map of this config.json",
    ),
}


@pytest.mark.parametrize("mistake", CHECKPOINT_MISTAKES)
def test_a_mistake_in_the_checkpoint_is_one_line_and_no_pickle_in_it_is_run(place, capsys, mistake):
    spoil, said = CHECKPOINT_MISTAKES[mistake]
    spoil(place)
    assert said in refused(place, capsys, "to-hf")
    assert not (place / "checkpoint" / "it-ran").exists()


@pytest.mark.parametrize("direction", GIVEN)
def test_an_output_that_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_model(
    place, capsys, direction
):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("ten years of work")
    assert "is there already" in refused(place, capsys, direction)
    assert "holds no model" in refused(place, capsys, direction, "--overwrite")
    assert left_in(place / "out") == {"thesis.tex"}
    shutil.rmtree(place / "out")
    assert run(place, direction) == 0
    assert "pass --overwrite" in refused(place, capsys, direction)
    before = left_in(place / "out")
    (place / "out" / "stale").touch()
    assert run(place, direction, "--overwrite") == 0
    assert left_in(place / "out") == before


@pytest.mark.parametrize("direction", GIVEN)
@pytest.mark.parametrize("where", ["", "inside"])
def test_an_output_within_the_input_or_around_it_is_refused(place, capsys, direction, where):
    given = place / GIVEN[direction]
    before = left_in(given)
    argv = [str(given), str(given / where), "--overwrite"]
    assert command.main(direction, argv) == 2
    assert "lies in the input" in capsys.readouterr().err
    assert left_in(given) == before


def test_a_layout_without_dry_run_and_a_missing_output_are_refused(place, capsys):
    assert "for --dry-run alone" in refused(place, capsys, "to-megatron", "--tensor-model-parallel-size", "2")
    assert command.main("to-megatron", [str(place / "source")]) == 2
    assert "OUT is missing" in capsys.readouterr().err
    assert "does not divide" in refused(
        place, capsys, "to-megatron", "--dry-run", "--tensor-model-parallel-size", "3"
    )
    assert "have to be 1 or more" in refused(
        place, capsys, "to-megatron", "--dry-run", "--pipeline-model-parallel-size", "0"
    )


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 KB, half of what the model needs."""
    with small_disk(tmp_path / "tiny", "200k") as folder:
        yield folder


@pytest.mark.parametrize("told", ["before", "while writing"])
@pytest.mark.parametrize("direction", GIVEN)
def test_a_full_disk_is_one_line_and_leaves_nothing_on_it(
    made, tiny_disk, capsys, monkeypatch, direction, told
):
    if told == "while writing":  # somebody else took the room in the meantime
        monkeypatch.setattr(output, "check_output", lambda *args, **options: None)
        monkeypatch.setattr(convert, "check_output", lambda *args, **options: None)
    argv = [str(made / GIVEN[direction]), str(tiny_disk / "out")]
    assert command.main(direction, argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("the disk is full" if told == "while writing" else "MB left; make room") in said
    assert not left_in(tiny_disk)


def test_a_flipped_bit_is_found_by_verify_and_what_was_written_is_taken_away(place, capsys, monkeypatch):
    write = convert.write_checkpoint

    def write_and_flip(folder, *args):
        write(folder, *args)
        with (folder / "__2_0.distcp").open("r+b") as file:
            file.seek(60_000)  # within one of the matrices
            byte = file.read(1)[0]
            file.seek(60_000)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(convert, "write_checkpoint", write_and_flip)
    before = left_in(place)
    assert run(place, "to-megatron", "--verify") == 1
    said = capsys.readouterr().err
    assert "verify: tensor model.layers.0." in said and "is not the one that was read" in said
    assert left_in(place) == before


@pytest.fixture
def unhurt():
    """A handler that keeps the tests alive where the converter has none of its own for SIGTERM."""

    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("direction", GIVEN)
def test_ctrl_c_or_sigterm_in_the_middle_leaves_nothing(
    place, capsys, monkeypatch, unhurt, direction, stop_signal
):
    seen = []

    def stop(*args, **options):
        seen.append(args)
        if len(seen) == 5:
            os.kill(os.getpid(), stop_signal)
        return real(*args, **options)

    if direction == "to-hf":
        real = hf_writer._Shard.append
        monkeypatch.setattr(hf_writer._Shard, "append", stop)
    else:
        real = convert.WeightFiles
        monkeypatch.setattr(convert, "WeightFiles", stop)
    before = left_in(place)
    assert run(place, direction) == 130
    assert "interrupted; nothing is left" in capsys.readouterr().err
    assert left_in(place) == before and len(seen) >= 5
    assert signal.getsignal(signal.SIGTERM) == unhurt  # as it was


STOPPED = """
import sys, time
from paced_megatron.models import convert, hf_writer
def stop(*args, **options):
    seen.append(1)
    if len(seen) == 12:
        print("in the middle", flush=True)
        time.sleep(60)
    return real(*args, **options)
seen = []
if sys.argv[1] == "to-hf":
    real, hf_writer._Shard.append = hf_writer._Shard.append, stop
else:
    real, convert.WeightFiles = convert.WeightFiles, stop
from paced_megatron.commands.convert import main
main(sys.argv[1], sys.argv[2:])
"""


@pytest.mark.parametrize("direction", GIVEN)
def test_kill_9_in_the_middle_leaves_nothing_that_looks_whole_and_the_next_run_succeeds(place, direction):
    given, out = place / GIVEN[direction], place / "out"
    arguments = [sys.executable, "-c", STOPPED, direction, str(given), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        while "in the middle" not in process.stdout.readline():
            assert process.poll() is None and time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (leftover,) = left_in(place) - {"source", "checkpoint"}
    assert leftover.startswith("out.tmp-")
    looks = [lambda: find_checkpoint(place / leftover), lambda: WeightFiles(place / leftover)]
    looks += [lambda: find_checkpoint(place / leftover / "release")]
    for look in looks:
        with pytest.raises(UserError):
            look()
    assert command.main(direction, [str(given), str(out)]) == 0
    with contextlib.suppress(UserError):
        assert same_tensors(place / "source", out)
