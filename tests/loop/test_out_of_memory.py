"""Runs that have no memory left. The error is the one that torch raises on a GPU, raised by hand in a real
run on the CPU: nothing here has a GPU to fill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from loop.recipes import ROOT, adopt, records, write_recipe
from paced_megatron.cli import main
from paced_megatron.rollout.embedded import EmbeddedEngine
from paced_megatron.training.trainer import Trainer

TORCHS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB of which 3 are"
)

FULL_ON_RANK_1 = f"""
import os, sys
import torch
from paced_megatron.cli import main
from paced_megatron.training.trainer import Trainer

step, taken = Trainer.step, []


def until_it_is_full(self, *args, **kwargs):
    taken.append(1)
    if os.environ["RANK"] == "1" and len(taken) == 4:
        raise torch.OutOfMemoryError({TORCHS!r})
    return step(self, *args, **kwargs)


Trainer.step = until_it_is_full
sys.exit(main())
"""
START = """
import sys
from pathlib import Path
from paced_megatron.runtime.launch import launch

sys.exit(launch(sys.argv[1:], 2, module="full_on_rank_1", log_dir=Path(sys.argv[2]).parent / "run" / "logs"))
"""


@pytest.fixture
def recipe(answered, tmp_path) -> Path:
    """Of one process, with training left to do."""
    path = write_recipe(tmp_path, evaluation={"every": 0})
    shutil.copytree(answered, tmp_path / "run")
    adopt(path)
    return path


def test_a_step_without_memory_ends_the_run_with_a_line_and_the_same_command_goes_on(
    recipe, monkeypatch, capsys
):
    step, taken = Trainer.step, []

    def until_it_is_full(self, *args, **kwargs):
        taken.append(1)
        if len(taken) == 4:
            raise torch.OutOfMemoryError(TORCHS)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "step", until_it_is_full)
    assert main(["train", str(recipe)]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert (
        line.startswith("paced: stage 1, step 4 of training, prompts of up to ")
        and "Traceback" not in said.out
    )
    for words in (
        "tokens, 2 in a micro-batch",
        "Tried to allocate 2.00 GiB",
        "the checkpoint of step 2 is kept",
    ):
        assert words in line, words
    assert "training.recompute_granularity=full" in line and "paced plan" in line
    assert [one["step"] for one in records(recipe.parent / "run/stage-1/metrics.jsonl")] == [1, 2, 3]
    monkeypatch.setattr(Trainer, "step", step)
    assert main(["train", str(recipe)]) == 0
    assert [one["step"] for one in records(recipe.parent / "run/stage-1/metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_an_engine_without_memory_names_the_phase_and_keeps_the_attempts(tmp_path, monkeypatch, capsys):
    path = write_recipe(tmp_path)
    generate, batches = EmbeddedEngine.generate, []

    def until_it_is_full(self, *args, **kwargs):
        for number, one in enumerate(generate(self, *args, **kwargs)):
            batches.append(number)
            if len(batches) == 4:
                raise MemoryError
            yield one

    monkeypatch.setattr(EmbeddedEngine, "generate", until_it_is_full)
    assert main(["rollout", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paced: stage 1: attempts, prompts of up to ") and "out of main memory" in line
    assert "answers of up to 16 tokens" in line and "rollout.batch_size" in line
    kept = len(records(tmp_path / "run/stage-1/attempts.jsonl"))
    assert 0 < kept < 160


@pytest.mark.parallel
def test_one_rank_without_memory_ends_the_job_and_every_rank_says_no_more_than_its_line(answered, tmp_path):
    path = write_recipe(tmp_path, evaluation={"every": 0}, parallel={"tensor_model_parallel_size": 2})
    shutil.copytree(answered, tmp_path / "run")
    adopt(path)
    (tmp_path / "full_on_rank_1.py").write_text(FULL_ON_RANK_1)
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", START, "train", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paced: ")]
    assert line.startswith("paced: rank 1: stage 1, step 4 of training, "), line
    assert "the checkpoint of step 2 is kept" in line and time.monotonic() - began < 120
    (log,) = (tmp_path / "run/logs").glob("rank-1.log")
    assert "Traceback" not in done.stdout + done.stderr + log.read_text() and line in log.read_text()
