"""A run's last checkpoint is damaged, or the run is started again at another layout: it goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loop.recipes import QUICKSTART, TRAIN_ITERS, records, write_recipe
from paced_megatron.models.convert import to_hugging_face

pytestmark = pytest.mark.parallel
NEWEST, BEFORE = "iter_0000006", "iter_0000004"  # save_interval is 2


@pytest.fixture(scope="module")
def whole(forkery, tmp_path_factory) -> Path:
    """A recipe whose run has ended."""
    recipe = write_recipe(tmp_path_factory.mktemp("whole"))
    paced(forkery, recipe)
    return recipe


def paced(forkery, recipe: Path, *keys: str, world_size: int = 1, code: int = 0) -> str:
    """What `paced run` says, which has to end with `code`."""
    job = forkery.start(["run", recipe, *keys], world_size)
    assert job.wait() == [code] * world_size, job.said()
    return job.said()


def _damaged(recipe: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """(the stage's folder, without its exported student and with its newest checkpoint truncated; the weights
    that the student had)."""
    stage = recipe.parent / "run" / "stage-1"
    weights = load_file(stage / "hf" / "model.safetensors")
    shutil.rmtree(stage / "hf")
    file = stage / "checkpoints" / NEWEST / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:1000])
    return stage, weights


def test_the_link_best_names_the_checkpoint_of_the_highest_held_out_accuracy(whole):
    run = whole.parent / "run"
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    accuracy = {row["step"]: row["accuracy"] for row in rows if row["step"]}
    assert set(accuracy) == {3, TRAIN_ITERS}
    best = os.readlink(run / "stage-1" / "checkpoints" / "best")
    assert accuracy[int(best.removeprefix("iter_"))] == max(accuracy.values())
    assert (run / "stage-1" / "checkpoints" / best / "manifest.json").exists()


def test_the_converter_makes_of_a_checkpoint_what_the_run_exported(whole, tmp_path):
    stage = whole.parent / "run" / "stage-1"
    to_hugging_face(stage / "checkpoints" / NEWEST, tmp_path / "hf", source=QUICKSTART / "student")
    made, exported = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", stage / "hf"))
    assert made.keys() == exported.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in exported.items())


def test_a_damaged_checkpoint_is_named_and_the_run_ends_with_the_same_weights(forkery, whole):
    stage, weights = _damaged(whole)
    steps = records(stage / "metrics.jsonl")
    output = paced(forkery, whole)
    assert f"{NEWEST} is damaged: __0_0.distcp is truncated (1000 of " in output
    assert (stage / "checkpoints" / "damaged_0000006" / "__0_0.distcp").stat().st_size == 1000
    again = load_file(stage / "hf" / "model.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert [step["loss"] for step in records(stage / "metrics.jsonl")] == [step["loss"] for step in steps]
    shutil.rmtree(stage / "checkpoints" / "damaged_0000006")


def test_started_again_at_another_layout_it_goes_on_and_says_so(forkery, whole):
    stage, weights = _damaged(whole)
    losses = [step["loss"] for step in records(stage / "metrics.jsonl")]
    layout = ["parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true"]
    output = paced(forkery, whole, *layout, "training.micro_batch_size=1", world_size=2)
    assert f"{BEFORE} was written at TP 1, PP 1, DP 1; training goes on from it at TP 2, PP 1, DP 1" in output
    again = [step["loss"] for step in records(stage / "metrics.jsonl")]
    assert len(again) == TRAIN_ITERS and again == pytest.approx(losses, rel=1e-4)
    assert again[:4] == losses[:4] and again[4:] != losses[4:]  # it is another sum of the same numbers
    assert load_file(stage / "hf" / "model.safetensors").keys() == weights.keys()


def test_a_changed_key_that_the_weights_depend_on_is_refused_and_told_which_may_change(forkery, whole):
    output = paced(forkery, whole, "training.lr=0.5", "training.save_interval=9", code=2)
    assert "training.lr was 0.001, is 0.5;" in output and "save_interval" not in output
    assert "Layout, memory, servers and saving may change" in output and "Traceback" not in output
