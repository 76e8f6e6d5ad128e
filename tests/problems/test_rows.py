"""Problems from Parquet and from Hugging Face datasets are those from JSONL; and what is refused."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.problems.load import load_problems
from paced_megatron.problems.problem import Problem

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

ROWS = [
    {"id": "a", "problem": "1+1?", "answer": "2", "meta": {"level": 3, "notes": ["x", "y"]}, "n": 0.5},
    {"id": "b", "problem": "½?", "answer": "0.5", "meta": {"level": 4, "notes": ["z", "w"]}, "n": 2.0},
]
PROBLEMS = [Problem("a", "1+1?", "2", "y", "3"), Problem("b", "½?", "0.5", "w", "4")]
FIELDS = {"level": "meta.level", "solution": "meta.notes.1"}


def refusal(source: object, **fields: str) -> str:
    """The one line that load_problems refuses the source with."""
    with pytest.raises(UserError) as caught:
        load_problems(source, fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    module = pytest.importorskip("datasets", reason="datasets is not installed (the extra `data`)")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    module.disable_progress_bars()
    return module


@pytest.fixture
def parquet(tmp_path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `data`)")
    from pyarrow.parquet import write_table

    path = tmp_path / "set" / "problems.parquet"
    path.parent.mkdir()
    write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def test_nested_columns_are_found_in_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert load_problems(path, FIELDS) == PROBLEMS
    assert refusal(path, answer="meta.notes.2").startswith(
        f"{path}:1: answer (column 'meta.notes.2') is missing; the line has the columns id, problem,"
    )


def test_a_column_whose_own_name_has_dots_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": 1, "problem": "p", "a.b": "whole", "a": {"b": "inner"}}\n')
    assert load_problems(path, {"answer": "a.b"})[0].answer == "whole"


def test_parquet_gives_the_problems_that_jsonl_gives(parquet: Path) -> None:
    assert load_problems(parquet, FIELDS) == PROBLEMS
    assert [problem.answer for problem in load_problems(parquet, {"answer": "n"})] == ["0.5", "2.0"]


def test_a_parquet_row_is_named_by_its_number(parquet: Path) -> None:
    assert refusal(parquet, id="nothing").startswith(
        f"{parquet}, row 1: id (column 'nothing') is missing; the row has the columns id, problem, answer,"
    )
    assert refusal(parquet, solution="nothing").endswith(f"no row of {parquet} has it")


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra `data`)")
    path = tmp_path / "problems.parquet"
    assert refusal(path).startswith(f"{path}: cannot be read (")
    path.write_text("not Parquet")
    assert refusal(path).startswith(f"{path}: not a Parquet file (")


def test_a_saved_dataset_gives_the_same(datasets, tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    one, several = tmp_path / "one", tmp_path / "several"
    dataset.save_to_disk(str(one))
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(str(several))
    assert load_problems(one, FIELDS) == load_problems(f"hf://{several}", FIELDS) == PROBLEMS
    assert load_problems(f"hf://{several}?split=test", FIELDS) == PROBLEMS[1:]
    assert "splits train, test; name one: hf://" in refusal(several)
    assert "splits train, test" in refusal(f"hf://{several}?split=validation")


def test_a_datasets_folder_is_loaded_as_from_the_hub(datasets, parquet: Path) -> None:
    """Offline, a folder stands for the hub: load_dataset takes both through the same builder."""
    folder = parquet.parent
    assert load_problems(f"hf://{folder}", FIELDS) == PROBLEMS
    assert load_problems(f"hf://{folder}?split=train[:50%]", FIELDS) == PROBLEMS[:1]
    assert refusal(f"hf://{folder}?split=nothing").startswith(
        f"hf://{folder}?split=nothing: cannot be loaded (ValueError: "
    )


def test_a_dataset_that_is_not_there_is_named(datasets, tmp_path: Path) -> None:
    assert refusal("hf://nobody/nothing").startswith("hf://nobody/nothing: cannot be loaded (")


@pytest.mark.parametrize("source", ["hf://", "hf://org/name?part=train", "hf://org/name?split="])
def test_an_address_with_another_key_is_refused(source: str) -> None:
    assert refusal(source) == (
        f"{source}: a dataset is hf://NAME?split=train&config=NAME&revision=NAME, no other keys"
    )


@pytest.mark.parametrize("source, package", [("x.parquet", "pyarrow"), ("hf://org/name", "datasets")])
def test_a_missing_package_is_told_with_its_extra(monkeypatch, source: str, package: str) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal(source) == (
        f"{source}: the package {package} reads it and is not installed; pip install 'paced-megatron[data]'"
    )
