"""The model card: what the hub reads of it, what people read, and what must not be in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hand_made_runs import config_dict, write_run
from paced_megatron.config import Config
from paced_megatron.config.io import config_from_dict, load_config
from paced_megatron.evaluation.accuracy import read_rows
from paced_megatron.report.environment import read_environment
from paced_megatron.report.model_card import Data, license_of, model_card, public_name, write_card

DATA = [Data("training", "a|b.jsonl", 5, "ab" * 32), Data("test", "org/set", 4, None)]
LOST = {
    "rows": [{"task": "mmlu", "num_fewshot": 5, "lm_eval_version": "0.4.13"}],
    "forgotten": [
        {
            "task": "mmlu",
            "metric": "acc",
            "before": 0.45,
            "after": 0.442,
            "forgotten": 0.008,
            "interval": [0.001, 0.015],
            "documents": 14042,
            "paired": True,
        }
    ],
}


def configuration(path: Path, **sections: Any) -> Config:
    return config_from_dict(config_dict(path, **sections), where="by hand", folder=path.parent)


@pytest.fixture
def card(tmp_path: Path) -> str:
    """Of a run on a model of the hub and a data set of the hub, everything measured."""
    run = write_run(tmp_path / "run")
    config = configuration(
        run,
        student={"path": "Qwen/Qwen3-1.7B"},
        problems={"train": "hf://org/set?split=train", "test": "test.jsonl"},
        pacing={"kernel": "beta", "alpha": 2.0},
    )
    return model_card(
        config,
        1,
        data=DATA,
        last_step=read_rows(run / "evaluation.json")[-1].step,
        rows=[replace(row, standard_error=0.02) for row in read_rows(run / "evaluation.json")],
        forgetting=LOST,
        environment=read_environment(run / "environment.json"),
        license="apache-2.0",
    )


def test_the_hub_reads_what_is_known_and_nothing_that_is_not(card: str, tmp_path: Path) -> None:
    found = ModelCard(card).data.to_dict()
    assert found == {
        "base_model": "Qwen/Qwen3-1.7B",
        "base_model_relation": "finetune",
        "datasets": ["org/set"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["paced", "distillation", "megatron-core", "forward-kl"],
    }
    local = model_card(
        configuration(tmp_path / "b"), 1, data=[], last_step=4, rows=[], forgetting={}, environment={}
    )
    assert ModelCard(local).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert "Accuracy on held-out problems has not been measured." in local and "lm-eval" not in local


def test_people_read_the_numbers_with_their_intervals(card: str) -> None:
    # Shares 1, 1/2, 0, 0 before and 1, 1, 1/2, 0 after; 0.02 times 3.182, t of 3 degrees of freedom.
    assert "| test | sampled | 2 | 4 | 37.5 % (31.1 to 43.9) | 62.5 % (56.1 to 68.9) |" in card
    assert "| mmlu | acc | 5 | 14042 | 0.4500 | 0.4420 | +0.0080 (+0.0010 to +0.0150) |" in card
    assert (
        "paired over documents" in card
        and "w(p) = p^2 (1 − p) of its pass rate" in card
        and "2603.11178" in card
    )
    assert f"| training | a\\|b.jsonl | 5 | `{'ab' * 32}` |" in card and "| test | org/set | 4 | – |" in card
    assert "- commit: c0ffee" in card and "- torch: 9.9" in card


@pytest.mark.parametrize("correct, share", [(2, "100.0"), (0, "0.0")])
def test_problems_that_are_all_alike_give_a_number_without_an_interval(
    tmp_path: Path, correct: int, share: str
) -> None:
    alike = dict.fromkeys(("e1", "e2", "h1", "h2"), correct)
    run = write_run(tmp_path / "run", held_out=(alike, alike))
    rows = [replace(row, standard_error=0.0) for row in read_rows(run / "evaluation.json")]
    card = model_card(
        configuration(run), 1, data=[], last_step=rows[-1].step, rows=rows, forgetting={}, environment={}
    )
    assert f"| test | sampled | 2 | 4 | {share} % | {share} % |" in card


def test_the_recipe_in_it_is_the_runs_own_and_no_path_of_this_machine_is(tmp_path: Path) -> None:
    home = tmp_path / "secret"
    problems = {"train": "train.jsonl", "test": "test.jsonl", "prompts": {"system_prompt": "/no_think"}}
    config = configuration(
        home / "run",
        rollout={"engine": "sglang", "urls": ["http://node17.cluster:30000"], "attempts": 4},
        problems=problems,
        seed=77,
    )
    text = model_card(config, 1, data=[], last_step=4, rows=[], forgetting={}, environment={})
    assert "secret" not in text and str(tmp_path) not in text and "node17" not in text
    recipe = text.split("~~~~yaml\n")[1].split("~~~~")[0]
    (tmp_path / "recipe.yaml").write_text(recipe)
    again = load_config(tmp_path / "recipe.yaml", ["run_dir=runs/again", "rollout.urls=[http://here:1]"])
    assert (again.seed, again.stages, again.pacing) == (77, config.stages, config.pacing)
    assert again.problems.prompts == config.problems.prompts


def test_a_card_that_somebody_wrote_is_left_alone_and_ours_is_written_anew(tmp_path: Path, card: str) -> None:
    assert write_card(tmp_path, card) and not write_card(tmp_path, card)
    assert write_card(tmp_path, card + "more\n") and (tmp_path / "README.md").read_text() == card + "more\n"
    own = "---\nlicense: mit\n---\n\n# My model \udcff\n".encode(errors="surrogateescape")
    (tmp_path / "README.md").write_bytes(own)
    assert not write_card(tmp_path, card)
    assert (tmp_path / "README.md").read_bytes() == own
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("README")] == ["README.md"]


def test_a_license_is_that_of_the_models_own_card_or_none(tmp_path: Path, card: str) -> None:
    assert license_of(tmp_path) is None
    (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\n[broken: yaml\n---\n")
    assert license_of(tmp_path) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/home/me/models/Qwen3-8B", "Qwen3-8B"),
        ("hf://org/set?split=train&revision=1", "org/set"),
        ("hf:///home/me/set", "set"),
    ],
)
def test_a_public_name_is_the_hubs_or_the_last_part_of_a_path(path: str, name: str) -> None:
    assert public_name(path) == name
