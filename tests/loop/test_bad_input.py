"""A mistake in the input: one line on stderr that names the thing, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from loop.recipes import QUICKSTART, records, run_paced, write_recipe
from paced_megatron.cli import main


@pytest.fixture
def recipe(tmp_path) -> Path:
    return write_recipe(tmp_path / "recipe")


def refused(recipe: Path, capsys, *overrides: str) -> str:
    """The line that `paced run` refuses the recipe with."""
    assert main(["run", str(recipe), *overrides]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.out
    assert not (recipe.parent / "run").exists(), "something was written"
    return lines[0]


def set_lines(recipe: Path, lines: list[str]) -> None:
    (recipe.parent / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))


def copy_model(recipe: Path, name: str) -> Path:
    """A copy of the quickstart's model beside the recipe, and the recipe's key set to it."""
    folder = recipe.parent / name
    shutil.copytree(QUICKSTART / name, folder)
    document = yaml.safe_load(recipe.read_text()) | {name: {"path": name}}
    recipe.write_text(yaml.safe_dump(document))
    return folder


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one(recipe, capsys):
    recipe.write_text(recipe.read_text() + "pacings: {kernel: beta}\n")
    line = refused(recipe, capsys)
    assert f"{recipe}:{len(recipe.read_text().splitlines())}" in line
    assert "pacings" in line and "did you mean" in line and "pacing" in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lrr=1e-4", ["training.lrr", "training.lr"]),
        ("training.global_batch_size=many", ["training.global_batch_size", "many"]),
        ("stages.0.divergence=kl", ["stages.0.divergence", "forward_kl", "reverse_kl"]),
        ("stages.0.divergence=jsd", ["stages.0.divergence_parameter", "beta"]),
        ("rollout.attempts=0", ["rollout.attempts", "0"]),
        ("problems.train=nowhere.jsonl", ["nowhere.jsonl"]),
        ("student.path=nowhere", ["nowhere", "config.json"]),
        ("parallel.tensor_model_parallel_size=4", ["tensor_model_parallel_size=4", "num_key_value_heads=2"]),
        ("rollout.max_new_tokens=1000", ["rollout.max_new_tokens=1000", "max_position_embeddings"]),
        ("training.global_batch_size=3", ["training.global_batch_size", "micro_batch_size"]),
        ("problems.prompts.template=hello", ["problems.prompts.template", "{problem}"]),
    ],
)
def test_a_wrong_value_is_named(recipe, capsys, override, words):
    line = refused(recipe, capsys, override)
    assert all(word in line for word in words), line


def test_a_recipe_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["run", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: no such file" in capsys.readouterr().err


def test_a_broken_line_of_problems_is_named_by_file_and_line(recipe, capsys):
    set_lines(recipe, ['{"id": "a", "problem": "p", "answer": "1"}', '{"id": "b", "problem": '])
    assert f"{recipe.parent / 'train.jsonl'}:2" in refused(recipe, capsys)


def test_a_duplicate_id_an_empty_set_and_a_missing_answer_are_named(recipe, capsys):
    problem = {"id": "a", "problem": "p", "answer": "1"}
    set_lines(recipe, [json.dumps(problem)] * 2)
    line = refused(recipe, capsys)
    assert "train.jsonl:2" in line and "a" in line
    set_lines(recipe, [])
    assert "train.jsonl" in refused(recipe, capsys)
    set_lines(recipe, [json.dumps(problem), json.dumps({"id": "b", "problem": "p"})])
    line = refused(recipe, capsys)
    assert "train.jsonl:2" in line and "answer" in line


def test_tokenizers_that_differ_are_named_with_what_differs(recipe, capsys):
    tokenizer = copy_model(recipe, "teacher") / "tokenizer.json"
    text = tokenizer.read_text()
    document = json.loads(text)
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokenizer.write_text(json.dumps(document))
    line = refused(recipe, capsys)
    assert "tokenizers of student" in line and "differ" in line


def test_a_model_that_is_not_supported_or_not_whole_is_named(recipe, capsys):
    folder = copy_model(recipe, "student")
    edit_json(folder / "config.json", model_type="gpt2")
    assert "model_type='gpt2'" in refused(recipe, capsys)
    edit_json(folder / "config.json", model_type="qwen3")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert f"{weights}: can't be read" in refused(recipe, capsys)


def test_one_attempt_a_problem_is_refused_before_it_is_made(recipe, capsys):
    assert "rollout.attempts" in refused(recipe, capsys, "rollout.attempts=1")


def test_a_folder_of_another_configuration_is_refused_with_the_keys_and_left_as_it_is(recipe, capsys):
    assert main(["rollout", str(recipe)]) == 0
    attempts = records(recipe.parent / "run/stage-1/attempts.jsonl")
    capsys.readouterr()
    assert main(["run", str(recipe), "training.lr=5e-4", "seed=6"]) == 2
    line = capsys.readouterr().err
    assert "another configuration" in line and "training.lr was 0.001, is 0.0005" in line and "seed" in line
    assert records(recipe.parent / "run/stage-1/attempts.jsonl") == attempts


def test_a_folder_of_other_problems_and_one_that_is_no_run_are_refused(recipe, capsys):
    assert main(["rollout", str(recipe)]) == 0
    lines = (recipe.parent / "train.jsonl").read_text().splitlines()
    set_lines(recipe, lines[:-1])
    capsys.readouterr()
    assert main(["run", str(recipe)]) == 2
    assert "not the problems that the run" in capsys.readouterr().err
    other = recipe.parent / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    assert main(["run", str(recipe), f"run_dir={other}"]) == 2
    assert "not a run's folder (it holds thesis.tex" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_a_stage_that_is_not_there_is_refused(recipe, capsys):
    assert main(["train", str(recipe), "--stage", "2"]) == 2
    assert "--stage 2" in capsys.readouterr().err


def test_attempts_that_are_all_truncated_end_in_a_clear_line(recipe, capsys):
    """Known only after the rollouts: three tokens end no attempt."""
    assert main(["run", str(recipe), "rollout.max_new_tokens=3"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of the 40 problems is on the student's frontier" in line and "max_new_tokens" in line


@pytest.mark.parallel
def test_a_mistake_found_by_rank_0_in_the_middle_ends_all_ranks_with_its_line_and_exit_code_2(tmp_path):
    recipe = write_recipe(tmp_path, parallel={"tensor_model_parallel_size": 2})
    code, output, errors = run_paced("run", recipe, "rollout.max_new_tokens=3")
    assert code == 2
    assert len(errors.strip().splitlines()) == 1 and "frontier" in errors
    assert "Traceback" not in output + errors


def test_what_is_allowed_and_seldom_meant_is_told_at_the_start(recipe, capsys, monkeypatch):
    """A teacher that ends its replies with a token at which the student writes on (rollout/checks.py)."""
    teacher = copy_model(recipe, "teacher")
    colon = json.loads((teacher / "tokenizer.json").read_text())["model"]["vocab"][":"]
    edit_json(teacher / "generation_config.json", eos_token_id=[1, colon])
    assert main(["rollout", str(recipe)]) == 0
    told = f"warning: {teacher} ends a reply with token {colon} (:)"
    assert told in " ".join(capsys.readouterr().out.split())

    experiment = recipe.parent / "experiment.yaml"
    one = {"run_dir": str(recipe.parent / "arms"), "base": recipe.name, "arms": {"paced": {}}, "seeds": [1]}
    experiment.write_text(yaml.safe_dump(one))
    # Its runs and their report are tested elsewhere, and take half a minute.
    monkeypatch.setattr("paced_megatron.experiments.compare.run_missing", lambda *work: None)
    monkeypatch.setattr("paced_megatron.experiments.finish.finish", lambda *work: None)
    assert main(["compare", str(experiment)]) == 0, capsys.readouterr().err
    assert told in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", ["weigh", "train", "export", "evaluate"])
def test_a_phase_that_cannot_be_a_runs_first_begins_no_folder(recipe, capsys, verb):
    assert main([verb, str(recipe)]) == 2
    run = recipe.parent / "run"
    line = f"paced: {run}: no run is there; begin it with `paced rollout` or `paced run`, or correct run_dir"
    assert capsys.readouterr().err.strip() == line
    assert not run.exists()
