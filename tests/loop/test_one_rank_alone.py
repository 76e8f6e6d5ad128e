"""A disk that is full where one rank alone writes, amid training over two processes.

Which write it is, is chosen by hand: on a disk that is really full a checkpoint, of which all ranks hear,
would nearly always come first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from loop.recipes import QUICKSTART, ROOT, adopt, records, run_paced, write_recipe

pytestmark = pytest.mark.parallel

FULL = """
import errno, os, sys
from paced_megatron.cli import main
from paced_megatron.runtime import files

writer, rank, ending, nth = sys.argv.pop(), sys.argv.pop(), sys.argv.pop(), int(sys.argv.pop())
write, written = getattr(files, writer), []


def until_it_is_full(path, content):
    if os.environ["RANK"] == rank and path.name.endswith(ending):
        written.append(path)
        if len(written) == nth:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
    return write(path, content)


setattr(files, writer, until_it_is_full)
sys.exit(main())
"""
START = """
import sys
from pathlib import Path
from paced_megatron.runtime.launch import launch

sys.exit(launch(sys.argv[1:], 2, module="full_disk", log_dir=Path(sys.argv[2]).parent / "run" / "logs"))
"""


@pytest.mark.parametrize(
    ("rank", "ending", "nth", "writer"),
    [
        (0, "metrics.jsonl", 4, "_append_lines"),  # in each step, without the others waiting for it
        (1, ".safetensors", 2, "_write_atomically"),  # the teacher's cache, of the second copy's texts
    ],
    ids=["rank 0's metrics", "rank 1's cache"],
)
def test_every_rank_ends_with_its_line_and_the_same_command_goes_on(
    answered, tmp_path, rank, ending, nth, writer
):
    """Seed 5, the recipe's: 20 steps, so that texts come twice and the teacher is cached."""
    recipe = write_recipe(
        tmp_path,
        evaluation={"every": 0},
        parallel={"data_parallel_size": 2},
        teacher={"path": str(QUICKSTART / "teacher"), "cache": True},
        stages=[{"divergence": "forward_kl", "train_iters": 20}],
    )
    shutil.copytree(answered, tmp_path / "run")
    adopt(recipe)
    (tmp_path / "full_disk.py").write_text(FULL)
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", START, "train", str(recipe), str(nth), ending, str(rank), writer],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    log = (tmp_path / "run/logs/rank-1.log").read_text()
    assert done.returncode == 2, done.stderr + log
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paced: ")]
    assert line.startswith(f"paced: {tmp_path}/run/stage-1/") and f"{ending}: the disk is full" in line, line
    assert "Traceback" not in done.stdout + done.stderr + log
    assert run_paced("train", recipe)[0] == 0
    steps = [record["step"] for record in records(tmp_path / "run/stage-1/metrics.jsonl")]
    assert steps == list(range(1, 21))
