"""The Hugging Face folder that is written as its tensors come."""

from __future__ import annotations

import errno
import gc
import json
import weakref

import numpy
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from paced_megatron.errors import UserError
from paced_megatron.models import hf_writer
from paced_megatron.models.hf_writer import write_folder
from paced_megatron.models.weight_files import WeightFiles
from tiny_models import make_tiny_qwen3

SHARDS_OF = 60_000  # bytes; the tiny model has several of them


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_tiny_qwen3(tmp_path_factory.mktemp("source") / "model", seed=11)


@pytest.fixture(scope="module")
def tensors(source):
    return load_file(source / "model.safetensors")


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def write(tensors, source, out, **options):
    write_folder(iter(tensors.items()), shapes=shapes_of(tensors), source=source, out=out, **options)


def read(folder):
    files = WeightFiles(folder)
    return {name: files[name] for name in files.names()}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("max_shard_size", [10**9, SHARDS_OF, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_transformers_opens_what_was_written_and_every_tensor_is_bit_equal(
    source, tensors, tmp_path, dtype, max_shard_size
):
    out = tmp_path / "out"
    write(tensors, source, out, dtype=dtype, max_shard_size=max_shard_size)
    after = read(out)
    assert after.keys() == tensors.keys()
    assert all(torch.equal(tensor.to(dtype), after[name]) for name, tensor in tensors.items())

    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == dtype  # which from_pretrained takes from config.json
    assert AutoTokenizer.from_pretrained(out).chat_template
    indexed = (out / "model.safetensors.index.json").is_file()
    assert indexed == (max_shard_size < 10**9) == (len(list(out.glob("*.safetensors"))) > 1)


def test_companions_are_the_sources_to_the_last_byte_and_nothing_else_is_copied(source, tensors, tmp_path):
    for name in ("pytorch_model.bin", "modeling_evil.py", "pytorch_model.bin.index.json"):
        (source / name).write_text("{}")
    try:
        write(tensors, source, tmp_path / "out")
    finally:
        for name in ("pytorch_model.bin", "modeling_evil.py", "pytorch_model.bin.index.json"):
            (source / name).unlink()
    assert left_in(tmp_path / "out") == left_in(source)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_the_dtype_in_config_json_is_that_of_the_weights_under_the_name_that_it_had(
    source, tensors, tmp_path, field
):
    old = tmp_path / "old"
    old.mkdir()
    config = json.loads((source / "config.json").read_text())
    del config["dtype"]
    (old / "config.json").write_text(json.dumps(config | {field: "float32"}))
    write(tensors, old, tmp_path / "out", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {field: "bfloat16"}


def test_tensors_of_several_dtypes_begin_where_their_dtype_may(source, tmp_path):
    mixed = {
        "a": torch.arange(3, dtype=torch.bfloat16),  # 6 bytes: no float32 may begin there
        "b": torch.arange(5, dtype=torch.float32),
        "c": torch.arange(7, dtype=torch.float32),
    }
    write(mixed, source, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2  # the second begins with b
    after = read(tmp_path / "out")
    assert all(after[name].dtype == mixed[name].dtype for name in mixed)
    assert all(torch.equal(after[name], mixed[name]) for name in mixed)


def test_a_tensor_is_let_go_before_the_next_but_one_is_asked_for(source, tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for index in range(20):
            memory = numpy.full((64, 64), float(index), dtype=numpy.float32)
            alive.append(weakref.ref(memory))  # views of the tensor keep it alive too
            yield f"t{index}", torch.from_numpy(memory)
            del memory
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))

    shapes = {f"t{index}": (64, 64) for index in range(20)}
    write_folder(stream(), shapes=shapes, source=source, out=tmp_path / "out")
    assert most <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight did not come"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "extra came twice, or is none"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(47)}), r"\[47\], not \[48\]"),
    ],
)
def test_tensors_that_are_not_the_models_leave_no_folder(source, tensors, tmp_path, change, said):
    changed = dict(tensors)
    change(changed)
    with pytest.raises(ValueError, match=said):
        write_folder(iter(changed.items()), shapes=shapes_of(tensors), source=source, out=tmp_path / "out")
    assert not left_in(tmp_path)


def test_an_output_that_is_there_is_kept_unless_it_shall_be_replaced(source, tensors, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        write(tensors, source, out)
    assert left_in(out) == ["notes.txt"]
    write(tensors, source, out, replace=True)
    assert left_in(out) == left_in(source) and left_in(tmp_path) == ["out"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(source, tensors, tmp_path, monkeypatch):
    def full(self, name, tensor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hf_writer._Shard, "append", full)
    with pytest.raises(UserError, match="out: the disk is full"):
        write(tensors, source, tmp_path / "out")
    assert not left_in(tmp_path)


def test_a_shard_without_its_header_is_not_readable(source, tensors, tmp_path, monkeypatch):
    """What kill -9 leaves: all bytes of the tensors, in a folder whose name says that it is not done."""
    seen = []

    def stop(self):
        self.file.flush()
        with pytest.raises(Exception, match="eader"):
            load_file(self.path)
        seen.append(self.path.parent.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_writer._Shard, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tensors, source, tmp_path / "out")
    assert seen[0].startswith("out.tmp-") and not left_in(tmp_path)
