"""The recipe of self-distillation: its keys, and that `paced plan` fits it on the GPUs that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from paced_megatron.cli import main
from paced_megatron.config.io import load_config

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "self_distillation" / "recipe.yaml"
MODEL = ROOT / "tests" / "data" / "configs" / "Qwen2.5-Math-7B-Instruct.json"


def test_the_recipe_names_one_model_which_teaches_itself_on_its_own_attempts():
    config = load_config(RECIPE)
    (stage,) = config.stages
    assert config.teacher.path is None and config.student.path.name == "Qwen2.5-Math-7B-Instruct"
    assert (stage.teacher, stage.text, stage.divergence) == ("initial", "rollouts", "reverse_kl")


def test_the_recipe_fits_on_eight_gpus_of_80_gb(tmp_path, capsys):
    shutil.copy(MODEL, tmp_path / "config.json")
    options = ("--memory-gb", "80", "--prompt-tokens", "1024", "--json")
    assert main(["plan", str(RECIPE), f"student.path={tmp_path}", *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True and plan["layout"]["world_size"] == 8
