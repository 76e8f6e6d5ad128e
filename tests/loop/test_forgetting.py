"""A run of two ranks that measures what its student forgets, and the model card that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from loop.forked import Forkery
from loop.recipes import QUICKSTART, ROOT, TRAIN_ITERS, TRAIN_PROBLEMS, records, write_recipe
from paced_megatron.cli import main
from paced_megatron.models.identity import weights_identity
from paced_megatron.runtime.files import sha256

TASKS = ROOT / "tests" / "evaluation" / "tasks"
EVALUATION = {"forgetting_tasks": ["tiny_sorting"], "forgetting_include_path": str(TASKS), "attempts": 2}
SCORES = "stage-1/evaluation/step-{:07d}/forgetting-tiny_sorting.jsonl"


@pytest.fixture(scope="module")
def recipe(forkery: Forkery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a run that has ended; at this learning rate the student forgets a good part."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("forgetting"),
        parallel={"tensor_model_parallel_size": 2},
        training={"micro_batch_size": 2, "global_batch_size": 4, "lr": 1e-2, "save_interval": 6},
        evaluation=EVALUATION,
    )
    forkery.run(["run", recipe], 2)
    return recipe


def _documents(run: Path, step: int) -> dict[str, float]:
    _, *documents = records(run / SCORES.format(step))
    return {line["document"]: line["acc"] for line in documents}


@pytest.mark.parallel
def test_forgetting_json_has_the_student_before_and_after_and_the_paired_difference(recipe: Path) -> None:
    run = recipe.parent / "run"
    found = json.loads((run / "forgetting.json").read_text())
    before, after = _documents(run, 0), _documents(run, TRAIN_ITERS)
    assert before.keys() == after.keys() and len(before) == 56
    for row, scores, folder in zip(
        found["rows"], (before, after), (QUICKSTART / "student", run / "stage-1/hf"), strict=True
    ):
        assert row["value"] == pytest.approx(sum(scores.values()) / 56)
        assert row["weights"] == weights_identity(folder)
    assert [(row["stage"], row["step"]) for row in found["rows"]] == [(1, 0), (1, TRAIN_ITERS)]
    (lost,) = found["forgotten"]
    differences = [before[name] - after[name] for name in before]
    mean = sum(differences) / 56
    variance = sum((one - mean) ** 2 for one in differences) / 55
    assert lost["paired"] and lost["forgotten"] == pytest.approx(mean) and mean > 0.05
    assert lost["standard_error"] == pytest.approx((variance / 56) ** 0.5)
    timings = [line["file"] for line in records(run / "timings.jsonl") if line["phase"] == "forgetting"]
    assert timings == [SCORES.format(0), SCORES.format(TRAIN_ITERS)]


@pytest.mark.parallel
def test_the_card_of_the_exported_student_is_complete_and_the_folder_loads(recipe: Path) -> None:
    run = recipe.parent / "run"
    path = run / "stage-1/hf/README.md"
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers" and "forward-kl" in card.data.tags
    assert str(recipe.parent) not in card.text and str(ROOT) not in path.read_text()
    digest = sha256(recipe.parent / "train.jsonl")
    assert f"| training | train.jsonl | {TRAIN_PROBLEMS} | `{digest}` |" in card.text
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    first, last = (f"{100 * row['accuracy']:.1f} %" for row in (rows[0], rows[-1]))
    assert f"| test | sampled | 2 | 10 | {first}" in card.text and f"| {last}" in card.text
    (lost,) = json.loads((run / "forgetting.json").read_text())["forgotten"]
    assert f"| tiny_sorting | acc | 0 | 56 | {lost['before']:.4f} | {lost['after']:.4f} |" in card.text
    AutoModelForCausalLM.from_pretrained(path.parent)


@pytest.mark.parallel
def test_started_again_it_measures_only_what_is_missing_and_leaves_a_card_of_the_users(
    forkery: Forkery, recipe: Path
) -> None:
    run = recipe.parent / "run"
    summary, first = (run / "forgetting.json").read_text(), run / SCORES.format(0)
    made, card = first.stat().st_mtime_ns, run / "stage-1/hf/README.md"
    (run / SCORES.format(TRAIN_ITERS)).unlink()
    (run / "forgetting.json").unlink()
    card.write_text("# Mine\n")
    forkery.run(["evaluate", recipe], 2)
    assert (run / "forgetting.json").read_text() == summary
    assert first.stat().st_mtime_ns == made
    assert card.read_text() == "# Mine\n"
    timings = [line["file"] for line in records(run / "timings.jsonl") if line["phase"] == "forgetting"]
    assert timings == [SCORES.format(0), SCORES.format(TRAIN_ITERS), SCORES.format(TRAIN_ITERS)]


def test_a_task_whose_data_is_out_of_reach_is_told_before_any_work(tmp_path: Path, capsys) -> None:
    (tmp_path / "far.yaml").write_text("task: far\ndataset_path: nobody/far-away\n")
    recipe = write_recipe(
        tmp_path / "a", evaluation={"forgetting_tasks": ["far"], "forgetting_include_path": str(tmp_path)}
    )
    assert main(["run", str(recipe)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("paced: ")]
    assert "evaluation.forgetting_tasks: the data of task far can't be fetched" in line
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.forgetting_limit=5", "evaluation.forgetting_limit is for evaluation.forgetting_tasks"),
        ("evaluation.forgetting_tasks=[mmlu, mmlu]", "evaluation.forgetting_tasks has mmlu twice"),
    ],
)
def test_keys_of_forgetting_go_together(tmp_path: Path, capsys, override: str, words: str) -> None:
    assert main(["run", str(write_recipe(tmp_path)), override]) == 2
    assert words in capsys.readouterr().err
