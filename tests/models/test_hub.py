"""A model named `org/name`: taken from the local cache, else fetched, else refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from paced_megatron.cli import main
from paced_megatron.config.io import config_from_dict, config_to_dict
from paced_megatron.errors import UserError
from paced_megatron.inputs import read_inputs
from paced_megatron.models import hub
from paced_megatron.models.hub import ALLOWED, IGNORED, is_hub_id, local_folder
from paced_megatron.problems import tokenizer
from tiny_models import make_tiny_qwen3

NAME = Path("org/tiny")


@pytest.fixture
def snapshot(tmp_path, monkeypatch) -> Path:
    """A cache that holds the whole of org/tiny: its folder in there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("a" * 40)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_model_in_the_cache_is_used_without_the_network(snapshot):
    assert local_folder(NAME) == snapshot


def test_a_folder_here_comes_before_the_hub(snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NAME.mkdir(parents=True)
    assert local_folder(NAME) == NAME


@pytest.mark.parametrize(
    "text", ["/org/tiny", "tiny", "./tiny", "../tiny", "a/b/c", "~/tiny", "org/", "org/.."]
)
def test_a_path_is_no_name_on_the_hub(text):
    assert not is_hub_id(text)
    assert local_folder(Path("/nowhere/tiny")) == Path("/nowhere/tiny")


def test_a_part_of_a_model_in_the_cache_is_not_taken_for_the_model(snapshot):
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"only a part of it is in the local cache.*hf download org/tiny"):
        local_folder(NAME)
    (snapshot / "model-2.safetensors").write_bytes(b"")
    assert local_folder(NAME) == snapshot


def test_a_model_in_the_cache_without_its_tokenizer_is_fetched_where_there_is_a_network(
    snapshot, monkeypatch
):
    """What transformers' AutoModel leaves there: configuration and weights."""
    (snapshot / "tokenizer.json").unlink()
    real, asked = hub.snapshot_download, []

    def answer(name, **options):
        if options.get("local_files_only"):
            return real(name, **options)
        asked.append(name)
        (snapshot / "tokenizer.json").write_text("{}")
        return str(snapshot)

    with monkeypatch.context() as patched:
        assert local_folder(NAME) == snapshot  # no network: what is there, for those who need no tokenizer
        patched.setattr(hub, "snapshot_download", answer)
        assert local_folder(NAME) == snapshot and asked == ["org/tiny"]
        assert local_folder(NAME) == snapshot and asked == ["org/tiny"]


def test_the_files_that_make_a_tokenizer_are_those_that_are_asked_for_when_it_is_loaded():
    assert hub.TOKENIZER_FILES == tokenizer.TOKENIZER_FILES


@pytest.mark.parametrize("content", ["{", "{}"])
def test_an_index_in_the_cache_that_is_none_is_one_line(snapshot, content):
    (snapshot / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json: not an index of safetensors"):
        local_folder(NAME)


def test_without_a_network_the_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"org/tiny: no such folder.*HF_HUB_OFFLINE.*hf download org/tiny"
    ) as told:
        local_folder(NAME)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ConnectionError("Name or service not known\nmore"),
            r"can't be fetched.*not known\); run `hf download",
        ),
        (LocalEntryNotFoundError("no connection"), "can't be fetched.*no connection"),
    ],
)
def test_what_the_hub_answers_is_told_in_one_line(tmp_path, monkeypatch, error, told):
    def answer(name, local_files_only=False, **patterns):
        raise LocalEntryNotFoundError("not here") if local_files_only else error

    monkeypatch.setattr(hub, "snapshot_download", answer)
    with pytest.raises(UserError, match=told) as raised:
        local_folder(NAME)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "told"),
    [(GatedRepoError, "licence.*hf auth login"), (RepositoryNotFoundError, "neither a folder here nor")],
)
def test_a_model_that_is_not_there_or_wants_a_login_is_told_in_one_line(monkeypatch, kind, told):
    def answer(name, local_files_only=False, **patterns):
        raise LocalEntryNotFoundError("not here") if local_files_only else kind.__new__(kind)

    monkeypatch.setattr(hub, "snapshot_download", answer)
    with pytest.raises(UserError, match=told) as raised:
        local_folder(NAME)
    assert "\n" not in str(raised.value)


def test_only_weights_as_safetensors_configuration_and_tokenizer_are_fetched():
    there = [
        *("config.json", "generation_config.json", "model-00001-of-00002.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
        *("merges.txt", "chat_template.jinja", "tokenizer.model"),
    ]
    left = [
        *("pytorch_model.bin", "model.pth", "modeling_own.py", "original/params.json", "optimizer.pt"),
        *("original/consolidated.00.pth", "consolidated.safetensors", "onnx/model.onnx", "model.gguf"),
        *("README.md", "training_args.bin"),
    ]
    fetched = filter_repo_objects(there + left, allow_patterns=list(ALLOWED), ignore_patterns=list(IGNORED))
    assert list(fetched) == there


def configuration(folder: Path, student: str) -> dict:
    return {
        "run_dir": "run",
        "problems": {"train": "train.jsonl"},
        "student": {"path": student},
        "teacher": {"path": str(folder)},
        "rollout": {"max_new_tokens": 4},
        "stages": [{"divergence": "forward_kl", "train_iters": 1}],
    }


def test_the_configuration_keeps_the_name_and_the_run_gets_the_folder(snapshot, tmp_path):
    config = config_from_dict(configuration(tmp_path / "teacher", "org/tiny"), folder=tmp_path)
    assert config_to_dict(config)["student"]["path"] == "org/tiny"
    assert config_from_dict(config_to_dict(config)) == config
    make_tiny_qwen3(snapshot, seed=0)
    make_tiny_qwen3(tmp_path / "teacher", seed=1)
    (tmp_path / "train.jsonl").write_text('{"id": "1", "problem": "1 + 1", "answer": "2"}\n')
    inputs = read_inputs(config)
    assert inputs.student_folder == snapshot
    assert inputs.teacher_folder == tmp_path / "teacher"


def test_a_folder_beside_the_file_is_not_taken_for_a_name_on_the_hub(tmp_path):
    (tmp_path / "models" / "student").mkdir(parents=True)
    config = config_from_dict(configuration(tmp_path, "models/student"), folder=tmp_path)
    assert config.student.path == tmp_path / "models" / "student"


def test_on_the_command_line_a_model_that_cannot_be_fetched_is_one_line_and_code_2(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run.yaml").write_text(json.dumps(configuration(tmp_path, "org/tiny")))
    assert main(["run", str(tmp_path / "run.yaml"), f"run_dir={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "org/tiny: no such folder" in told
    assert not (tmp_path / "out").exists()
