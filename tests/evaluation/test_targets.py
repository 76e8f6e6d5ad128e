"""What a target is, by its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hand_made_runs import config_dict, write_run
from paced_megatron.errors import UserError
from paced_megatron.evaluation.targets import find_targets
from paced_megatron.models.identity import fingerprint
from tiny_models import make_tiny_qwen3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    """A run of two stages, both exported."""
    stages = [{"divergence": "forward_kl", "train_iters": 3}] * 2
    path = write_run(tmp_path / "run", config=config_dict(tmp_path / "run", stages=stages))
    (path / "stage-1" / "hf").rmdir()
    for number in (1, 2):
        shutil.copytree(tiny, path / f"stage-{number}" / "hf")
    return path


def refusal(*paths: Path) -> str:
    with pytest.raises(UserError) as refused:
        find_targets(paths)
    return str(refused.value)


def test_a_run_stands_for_its_last_stage_s_student(run: Path) -> None:
    (target,) = find_targets([run])
    assert target.folder == (run / "stage-2" / "hf").resolve()
    assert (target.name, target.results) == ("run", run / "evaluation")
    shutil.rmtree(run / "stage-2" / "hf")
    assert "stage-2/hf: not made yet; run `paced export" in refusal(run)


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tiny: Path, tmp_path: Path) -> None:
    for name in ("a/seed-1", "b/seed-1"):
        shutil.copytree(tiny, tmp_path / name)
    assert [one.name for one in find_targets([tmp_path / "a/seed-1", tiny])] == ["seed-1", tiny.name]
    both = find_targets([tmp_path / "a/seed-1", tmp_path / "b/seed-1"])
    assert [one.name for one in both] == ["a-seed-1", "b-seed-1"]


def test_what_is_no_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    assert "no config.json here" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "gone")
    assert "a file; a target is" in refusal(tiny / "config.json")
    assert "named twice" in refusal(tiny, tiny / ".")
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    assert "can't be read as safetensors" in refusal(broken)
    (broken / "model.safetensors").unlink()
    assert "neither model.safetensors" in refusal(broken)
    for name in ("arms", "experiment.yaml"):
        (tmp_path / name).mkdir()
    (tmp_path / "experiment.yaml").rmdir()
    (tmp_path / "experiment.yaml").write_text("")
    assert "an experiment; name its runs" in refusal(tmp_path)


def test_the_fingerprint_is_of_all_that_decides_the_answers(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    (copy / "README.md").write_text("a card")
    (copy / "evaluation").mkdir()
    assert fingerprint(copy) == fingerprint(tiny)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        content = (copy / name).read_bytes() if (copy / name).exists() else b""
        (copy / name).write_bytes(content + b" ")
        assert fingerprint(copy) != fingerprint(tiny), name
        (copy / name).write_bytes(content)
