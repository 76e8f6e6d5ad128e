"""`paced train` with a teacher on a process of its own."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from loop.recipes import QUICKSTART, adopt, end_a_rank, run_paced, start_paced, write_recipe
from paced_megatron.cli import main

pytestmark = pytest.mark.parallel

APART = {"path": str(QUICKSTART / "teacher"), "own_ranks": True}


def recipe_in(folder: Path, answered: Path, **sections: Any) -> Path:
    recipe = write_recipe(folder, evaluation={"every": 0}, **sections)
    shutil.copytree(answered, folder / "run")
    adopt(recipe)
    return recipe


def test_the_student_is_to_the_last_bit_what_it_is_with_the_teacher_beside_it(answered, tmp_path):
    beside = recipe_in(tmp_path / "beside", answered)
    for verb in ("train", "export"):
        assert main([verb, str(beside)]) == 0
    apart = recipe_in(tmp_path / "apart", answered, teacher=APART)
    code, _, errors = run_paced("train", apart)
    assert code == 0, errors
    assert run_paced("export", apart)[0] == 0  # a phase in which the teacher's process has nothing to do
    expected, found = (
        load_file(recipe.parent / "run/stage-1/hf/model.safetensors") for recipe in (beside, apart)
    )
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)


@pytest.mark.parametrize("rank", [0, 1], ids=["the student's", "the teacher's"])
def test_whichever_side_dies_the_job_ends_within_a_minute_with_the_cause(answered, tmp_path, rank):
    endless = [{"divergence": "forward_kl", "train_iters": 2000}]
    recipe = recipe_in(tmp_path, answered, teacher=APART, stages=endless)
    code, errors = end_a_rank(start_paced("train", recipe), rank, tmp_path / "run")
    assert code == 128 + signal.SIGKILL
    assert f"rank {rank}" in errors, errors
