"""`paced plan` where the student teaches itself: how many copies of its weights there are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from paced_megatron.cli import main
from paced_megatron.models.families import model_shape
from paced_megatron.plan.parameters import parameters_on_rank

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
TEACHERS_WEIGHTS = "teacher's weights"


@pytest.fixture
def stages(tmp_path, capsys):
    """Called with the stages' keys: the plan's two pipeline stages, bfloat16."""

    def plan(*stages: dict[str, str], **sections) -> list[dict]:
        shutil.copy(CONFIGS / "Qwen3-0.6B.json", tmp_path / "config.json")
        document = {
            "run_dir": str(tmp_path / "run"),
            "problems": {"train": "nowhere.jsonl"},
            "student": {"path": str(tmp_path)},
            "parallel": {"pipeline_model_parallel_size": 2},
            "training": {"params_dtype": "bfloat16"},
            "stages": [{"train_iters": 10, "text": "rollouts"} | stage for stage in stages],
        } | sections
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document))
        assert main(["plan", str(path), "--memory-gb", "900", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["stages"]

    return plan


def test_a_frozen_copy_an_average_in_float32_and_no_copy_at_all_are_counted(stages, tmp_path):
    found = {kind: stages({"teacher": kind}) for kind in ("initial", "ema", "current")}
    shape = model_shape(tmp_path)
    for stage in range(2):
        parameters = parameters_on_rank(shape, 1, 2, stage).total
        for kind, size in (("initial", 2), ("ema", 4), ("current", 0)):
            assert found[kind][stage]["lasting"][TEACHERS_WEIGHTS] == size * parameters, (kind, stage)
    kept = {kind: found[kind][1]["turns"]["student"]["hidden states of the teacher"] for kind in found}
    assert kept["ema"] == 2 * kept["current"] == 2 * kept["initial"] > 0
    assert "hidden states of the teacher" not in found["ema"][0]["turns"]["student"]


def test_of_several_stages_the_one_that_takes_most_is_planned(stages):
    average = stages({"teacher": "ema"})
    for kinds in (("current", "ema"), ("ema", "initial")):
        assert stages(*({"teacher": kind} for kind in kinds)) == average


def test_an_offloaded_copy_is_there_in_the_teacher_s_turn_and_an_average_all_the_time(stages):
    offload = {"teacher": {"offload": True}}
    frozen, average = stages({"teacher": "initial"}, **offload), stages({"teacher": "ema"}, **offload)
    assert TEACHERS_WEIGHTS in frozen[0]["turns"]["teacher"]
    assert TEACHERS_WEIGHTS not in frozen[0]["lasting"]
    assert TEACHERS_WEIGHTS in average[0]["lasting"]
