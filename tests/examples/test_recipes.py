"""Every recipe in examples/ fits the GPUs that it names, by the published models' config.json, and runs to
its end on the CPU with small models of the same family in the place of the large ones.

With PACED_FULL_RECIPES=1 all of them run, those for several GPUs on two processes that share the layers; else
one of each family, in one process.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from loop.recipes import QUICKSTART, run_paced, some_lines
from models.family_models import Variant, make_model
from paced_megatron.cli import main
from paced_megatron.config.io import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = Path(__file__).parents[1] / "data" / "configs"
FULL = os.environ.get("PACED_FULL_RECIPES") == "1"


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    memory_gb: of the GPUs that its README names.
    processes: in the full dry run.
    """

    student: str
    teacher: str
    family: str
    memory_gb: int
    prompt_tokens: int
    quick: bool = False
    processes: int = 2


RECIPES = {
    "qwen3_8b_to_1_7b": Recipe("Qwen3-1.7B", "Qwen3-8B", "qwen3", 80, 2048),
    "qwen3_14b_to_8b": Recipe("Qwen3-8B", "Qwen3-14B", "qwen3", 80, 2048),
    "akl": Recipe("Qwen3-1.7B", "Qwen3-8B", "qwen3", 80, 2048),
    "llama3_8b_to_1b": Recipe(
        "Llama-3.2-1B-Instruct", "Llama-3.1-8B-Instruct", "llama", 24, 1024, quick=True
    ),
    "one_gpu": Recipe("Qwen3-0.6B", "Qwen3-1.7B", "qwen3", 24, 512, quick=True, processes=1),
}
RUN_HERE = [name for name, recipe in RECIPES.items() if recipe.quick or FULL]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_the_gpus_that_it_names(name: str, tmp_path: Path, capsys) -> None:
    recipe = RECIPES[name]
    for model in (recipe.student, recipe.teacher):
        (tmp_path / model).mkdir()
        shutil.copy(CONFIGS / f"{model}.json", tmp_path / model / "config.json")
    arguments = [f"student.path={tmp_path / recipe.student}", f"teacher.path={tmp_path / recipe.teacher}"]
    arguments += [
        "--memory-gb",
        str(recipe.memory_gb),
        "--prompt-tokens",
        str(recipe.prompt_tokens),
        "--json",
    ]
    assert main(["plan", str(EXAMPLES / name / "recipe.yaml"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is True


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_needs_what_it_gives_and_that_it_was_not_run(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    for part in ("## What it needs", "## What it gives", "## What the paper reports", "**Not run here"):
        assert part in text, part
    assert f"examples/{name}/recipe.yaml" in (EXAMPLES / name / "recipe.yaml").read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_papers_settings(name: str) -> None:
    """Those of docs/method.md, 1; one_gpu's README names what it changes."""
    config = load_config(EXAMPLES / name / "recipe.yaml")
    assert (config.rollout.attempts, config.rollout.temperature, config.rollout.top_p) == (8, 1.0, 1.0)
    assert config.rollout.top_k == -1 and config.training.params_dtype == "bfloat16"
    assert (config.training.weight_decay, config.training.clip_grad) == (0.1, 1.0)
    assert config.training.lr_decay_style == "constant" and config.training.lr_warmup_iters == 0
    if name != "one_gpu":
        assert (config.training.lr, config.training.global_batch_size) == (1e-6, 64)
    paced = (config.pacing.kernel, config.pacing.keep, config.stages[0].divergence)
    assert paced == (("uniform", "all", "akl") if name == "akl" else ("beta", "frontier", "forward_kl"))


def _small(recipe: Recipe, folder: Path) -> list[str]:
    """Overrides: small models and few problems, short texts, two steps."""
    if recipe.family == "qwen3":  # the quickstart's, which have a frontier
        (folder / "train.jsonl").write_text(some_lines(QUICKSTART / "train.jsonl", 24))
        leaked = some_lines(QUICKSTART / "train.jsonl", 24).splitlines()[0]  # the recipes leave it out
        (folder / "test.jsonl").write_text(some_lines(QUICKSTART / "test.jsonl", 4) + leaked)
        student, teacher = QUICKSTART / "student", QUICKSTART / "teacher"
        own = ["problems.prompts.template={problem}", "problems.prompts.chat_template_kwargs={}"]
    else:  # random ones, which solve nothing: what they fail at is kept
        for number in (0, 1):
            rows = [
                {"id": f"{number}-{n}", "problem": f"What is {n} + {number}?", "answer": str(n + number)}
                for n in range(6)
            ]
            (folder / ("train.jsonl", "test.jsonl")[number]).write_text(
                "".join(json.dumps(row) + "\n" for row in rows)
            )
        sizes = {"max_position_embeddings": 512}
        student, teacher = (
            make_model(folder / role, Variant(recipe.family, tied, torch.float32, False), seed=seed, **sizes)
            for role, tied, seed in (("student", True, 1), ("teacher", False, 2))
        )
        template = folder / "template.jinja"
        template.write_text("{{ date_string }}{{ messages[0]['content'] }}>")
        own = ["pacing.keep=all", "pacing.kernel=uniform", f"problems.prompts.chat_template={template}"]
    if FULL and recipe.processes > 1:
        own += ["parallel.tensor_model_parallel_size=2"]
    else:
        own += [
            f"parallel.{key}"
            for key in (
                "tensor_model_parallel_size=1",
                "sequence_parallel=false",
                "use_distributed_optimizer=false",
            )
        ]
    return [
        *own,
        f"run_dir={folder / 'run'}",
        f"problems.train={folder / 'train.jsonl'}",
        f"problems.test={folder / 'test.jsonl'}",
        "problems.format=plain",
        "problems.test_format=plain",
        "problems.verifier.kind=exact",
        "problems.verifier.answer_marker=#",
        f"student.path={student}",
        f"teacher.path={teacher}",
        "parallel.data_parallel_size=1",
        "rollout.engine=embedded",
        "rollout.launch={}",
        "rollout.colocate=false",
        "rollout.max_new_tokens=16",
        "rollout.batch_size=96",
        "evaluation.max_new_tokens=16",
        "evaluation.attempts=1",
        "training.global_batch_size=4",
        "training.params_dtype=float32",
        "stages.0.train_iters=2",
    ]


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_recipe_runs_to_its_end_with_small_models(name: str, tmp_path: Path, capfd) -> None:
    arguments = [str(EXAMPLES / name / "recipe.yaml"), *_small(RECIPES[name], tmp_path)]
    if FULL:  # it starts processes
        code, said, errors = run_paced("run", *arguments)
        assert code == 0, errors
    else:
        assert main(["run", *arguments]) == 0
        said = capfd.readouterr().out
    dropped = 1 if RECIPES[name].family == "qwen3" else 0
    assert said.count("training problems that are held-out ones too, left out: 1\n") == dropped
    stage = tmp_path / "run" / "stage-1"
    steps = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["loss"] > 0 and step["lr"] == (2e-6 if name == "one_gpu" else 1e-6) for step in steps)
    assert (stage / "hf" / "model.safetensors").exists()
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert [(row["stage"], row["step"]) for row in rows] == [(1, 0), (1, 2)]


def test_every_recipe_in_the_folder_is_in_the_table() -> None:
    elsewhere = {"self_distillation"}  # has one model, and tests of its own
    assert {path.parent.name for path in EXAMPLES.glob("*/recipe.yaml")} - elsewhere == set(RECIPES)
