"""What slurm/submit.sh is told of a recipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loop.recipes import write_recipe
from paced_megatron.cluster.layout import main, ranks_per_node


@pytest.mark.parametrize(
    ("world_size", "model_size", "most", "expected"),
    [
        (16, 8, 8, 8),  # two full nodes
        (2, 2, 8, 2),  # a part of a node
        (12, 4, 8, 4),  # not 2 nodes of 6: groups of 4 stay on one node
        (12, 1, 8, 6),
        (16, 16, 8, 8),  # one group that no node can hold
        (7, 1, 8, 7),
        (11, 1, 8, 1),  # a prime number of ranks above what a node holds
    ],
)
def test_nodes_are_filled_alike_and_tensor_parallel_groups_stay_whole(
    world_size: int, model_size: int, most: int, expected: int
) -> None:
    assert ranks_per_node(world_size, model_size, most) == expected


def test_bash_reads_the_facts_as_they_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "re cipe")
    monkeypatch.chdir(tmp_path)
    overrides = [
        "parallel.tensor_model_parallel_size=2",
        "parallel.data_parallel_size=3",
        "training.global_batch_size=6",
        "run_dir=ru'n $HOME",
        "rollout.engine=sglang",
        "rollout.launch.python=/opt/sglang/bin/python",
        "rollout.batch_size=1",
        "evaluation.every=0",
    ]
    assert main(["--ranks-per-node", "4", str(recipe), *overrides]) == 0
    names = ("WORLD_SIZE", "NODES", "RANKS_PER_NODE", "RUN_DIR", "SERVED")
    script = capsys.readouterr().out + "\n".join(f'echo "${name}"' for name in names)
    read = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    assert read.splitlines() == [
        "6",
        "3",
        "2",
        f"{tmp_path}/ru'n $HOME",
        "run rollout respond evaluate-before evaluate",  # training samples nothing on the way
    ]


def test_a_mistake_in_the_recipe_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["--ranks-per-node", "4", str(recipe), "trainign.lr=1"]) == 2
    output, errors = capsys.readouterr()
    assert not output and errors.startswith("paced: ") and len(errors.splitlines()) == 1
