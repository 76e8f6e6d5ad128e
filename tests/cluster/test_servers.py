"""Which SGLang servers a job starts for a recipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from loop.recipes import QUICKSTART, write_recipe
from paced_megatron.cluster.servers import as_bash, gpus_of, main, served_verbs, servers_for
from paced_megatron.config import Config
from paced_megatron.config.io import load_config

STUDENT, TEACHER = QUICKSTART / "student", QUICKSTART / "teacher"  # of other sizes
LAUNCH = {"python": "/opt/sglang/bin/python", "args": "--tp-size 2 --mem-fraction-static 0.8"}


def config(folder: Path, *overrides: str, **rollout: object) -> Config:
    keys = {"engine": "sglang", "launch": LAUNCH, "attempts": 4, **rollout}
    return load_config(write_recipe(folder, rollout=keys), overrides)


@pytest.mark.parametrize(
    ("verb", "student", "teacher"),
    [
        ("run", STUDENT, TEACHER),
        ("rollout", STUDENT, None),
        ("respond", None, TEACHER),
        ("evaluate-before", STUDENT, None),
        ("evaluate", STUDENT, None),
        ("train", STUDENT, None),  # evaluation.every is 3 in this recipe
        ("weigh", None, None),
        ("export", None, None),
    ],
)
def test_a_verb_has_servers_of_the_models_that_it_samples(
    tmp_path: Path, verb: str, student: Path | None, teacher: Path | None
) -> None:
    servers = servers_for(config(tmp_path), verb)
    assert (servers.student, servers.teacher) == (student, teacher)


def test_a_teacher_of_the_students_sizes_shares_its_servers(tmp_path: Path) -> None:
    same = config(tmp_path, f"teacher.path={STUDENT}")
    for verb in ("run", "respond"):
        servers = servers_for(same, verb)
        assert (servers.student, servers.teacher) == (STUDENT, None)


def test_training_has_servers_only_where_it_samples_on_the_way(tmp_path: Path) -> None:
    plain = config(tmp_path, "evaluation.every=0")
    assert servers_for(plain, "train").student is None and "train" not in served_verbs(plain)
    on_policy = config(tmp_path, "evaluation.every=0", "stages.0.text=rollouts")
    assert servers_for(on_policy, "train").student == STUDENT
    assert servers_for(on_policy, "run").teacher is None  # it writes no text


@pytest.mark.parametrize(
    "rollout",
    [{"engine": "embedded", "launch": {}}, {"launch": {}, "urls": ["http://gpu7:30000"]}],
)
def test_other_engines_and_servers_that_run_elsewhere_need_none(tmp_path: Path, rollout: dict) -> None:
    servers = servers_for(config(tmp_path, **rollout), "run")
    assert servers.student is None and servers.teacher is None


@pytest.mark.parametrize(
    ("args", "gpus"),
    [
        ("", 1),
        ("--tp-size 4", 4),
        ("--tp=2 --pp-size 2", 4),
        ("--tensor-parallel-size 2 --dp-size 3", 6),
        ("--tp-size 8 --dp-size 8 --enable-dp-attention", 8),
    ],
)
def test_the_gpus_of_a_server_are_those_that_its_arguments_ask_for(args: str, gpus: int) -> None:
    assert gpus_of(args.split()) == gpus


def test_bash_reads_the_assignments_back_with_any_text_in_them(tmp_path: Path) -> None:
    launch = {"python": "/a b/python", "args": "--x 'y z' $HOME", "env": {"A": "1 '2' $3", "B": ""}}
    text = as_bash(servers_for(config(tmp_path, launch=launch), "run"), Path("/runs/a b"))
    script = f'{text}\nprintf "%s|" "$RUN_DIR" "$LAUNCH_PYTHON" "${{LAUNCH_ARGS[@]}}" "${{LAUNCH_ENV[@]}}"'
    read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == "/runs/a b|/a b/python|--x|y z|$HOME|A=1 '2' $3|B=|"


def test_a_mistake_in_the_recipe_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["run", str(recipe), "rollout.engin=sglang"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("paced: ") and said.err.count("\n") == 1
