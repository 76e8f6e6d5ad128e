"""slurm/submit.sh refuses what can't run with one line and exit code 2, before anything is queued or
written."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loop.recipes import write_recipe
from slurm_cluster import ROOT, Cluster

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@dataclass(frozen=True)
class Mistake:
    """Lines of cluster.env and arguments of submit.sh, and what is said to them. RECIPE and PORT stand for
    the recipe and for a port that is taken."""

    says: str
    settings: str = ""
    arguments: tuple[str, ...] = ("RECIPE",)


MISTAKES = {
    "account not filled in": Mistake("ACCOUNT is still CHANGE_ME", "ACCOUNT=CHANGE_ME"),
    "partition not filled in": Mistake("PARTITION is still CHANGE_ME", "PARTITION=CHANGE_ME"),
    "no such partition": Mistake("PARTITION=gold is no partition", "PARTITION=gold"),
    "not a number": Mistake("TASKS_PER_NODE='all' is no whole number", "TASKS_PER_NODE=all"),
    "launcher": Mistake("LAUNCHER=mpirun; srun or torchrun", "LAUNCHER=mpirun"),
    "more ranks than GPUs": Mistake(
        "TASKS_PER_NODE=8 ranks want a GPU each, and a node has GPUS_PER_NODE=4",
        "TASKS_PER_NODE=8 GPUS_PER_NODE=4",
    ),
    "more GPUs than the node has": Mistake(
        "GPUS_PER_NODE=16, but a node of main has 8", "TASKS_PER_NODE=16 GPUS_PER_NODE=16"
    ),
    "more nodes than there are": Mistake(
        "sbatch would refuse this",
        arguments=("RECIPE", "parallel.data_parallel_size=16", "training.global_batch_size=32"),
    ),
    "image missing": Mistake("/nowhere/paced.sqsh: no such image", "CONTAINER_IMAGE=/nowhere/paced.sqsh"),
    "no pyxis": Mistake("this Slurm has no pyxis", "CONTAINER_IMAGE=nvcr.io#nvidia/pytorch:25.06-py3"),
    "no environment": Mistake("/nowhere/bin/python: no such program", "VENV=/nowhere"),
    "port taken": Mistake("MASTER_PORT=PORT is taken on this machine", "MASTER_PORT=PORT"),
    "no port": Mistake("MASTER_PORT=http is no port", "MASTER_PORT=http"),
    "no recipe named": Mistake("which recipe?", arguments=()),
    "recipe missing": Mistake("nothing.yaml: no such recipe", arguments=("nothing.yaml",)),
    "unknown key": Mistake("unknown key trainign", arguments=("RECIPE", "trainign.lr=1")),
    "unknown verb": Mistake("--verb trian: no such verb", arguments=("--verb", "trian", "RECIPE")),
    "unknown option": Mistake("--nodes: no such option", arguments=("--nodes", "2", "RECIPE")),
    "too large": Mistake("does not fit GPU_MEMORY_GB=0.001", "GPU_MEMORY_GB=0.001"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_queued(
    slurm: Cluster, recipe: Path, cluster_env: Path, tmp_path: Path, taken_port: int, name: str
) -> None:
    mistake = MISTAKES[name]
    known = {"RECIPE": str(recipe)}
    cluster_env.write_text(
        cluster_env.read_text() + mistake.settings.replace("PORT=PORT", f"PORT={taken_port}")
    )
    arguments = [known.get(argument, argument) for argument in mistake.arguments]
    if "RECIPE" in mistake.arguments:
        arguments.append(f"run_dir={tmp_path}/run")
    if name != "too large":
        arguments.insert(0, "--no-plan")  # it takes seconds, and comes after all other checks but Slurm's own
    done = slurm.run(ROOT / "slurm" / "submit.sh", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("paced: ") and mistake.says.replace("=PORT", f"={taken_port}") in line
    assert not slurm.run("squeue", "-h").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.env"]


def test_a_dry_run_prints_the_line_with_layout_queue_and_logs_and_queues_nothing(
    slurm: Cluster, recipe: Path, cluster_env: Path, tmp_path: Path
) -> None:
    cluster_env.write_text(cluster_env.read_text() + "SBATCH_OPTIONS=(--nice=5 '--comment=a b')\n")
    layout = (
        "parallel.tensor_model_parallel_size=2",
        "parallel.data_parallel_size=3",
        "training.global_batch_size=6",
    )
    printed = slurm.run(
        ROOT / "slurm" / "submit.sh",
        "--dry-run",
        "--no-plan",
        "--verb",
        "rollout",
        recipe,
        *layout,
        f"run_dir={tmp_path}/run",
    ).stdout
    for part in (
        "VERB=rollout",
        "--nodes=3",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        "--partition=main",
        "--time=00:10:00",
        "--signal=B:USR1@30",
        "--nice=5 --comment=a\\ b",
        f"--output={tmp_path}/run/logs/%x-%j.log",
        f"slurm/train.sbatch {recipe} {layout[0]}",
    ):
        assert part in printed
    assert "--account" not in printed and "--mem" not in printed
    assert not slurm.run("squeue", "-h").stdout and not (tmp_path / "run").exists()


def test_help_names_every_option_and_verb_without_a_cluster(tmp_path: Path, slurm: Cluster) -> None:
    shown = slurm.run(ROOT / "slurm" / "submit.sh", "--help", cwd=tmp_path).stdout
    for word in ("--verb", "--dry-run", "--no-plan", "rollout, weigh, respond, train, export", "convert"):
        assert word in shown
    assert "#!" not in shown and "source" not in shown


def test_slurm_takes_every_script(slurm: Cluster) -> None:
    scripts = sorted((ROOT / "slurm").glob("*.sbatch"))
    assert len(scripts) >= 3
    for script in scripts:
        slurm.run("sbatch", "--test-only", script)
