"""environment.json: with what a run was begun."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.report.environment import (
    command,
    commit,
    environment,
    hardware,
    read_environment,
    write_environment,
)

CLONE = Path(__file__).resolve().parents[2]


def test_it_names_the_versions_that_decide_the_numbers():
    found = environment()
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"]["megatron-core"] == version("megatron-core")
    assert set(found) == {"commit", "paced_megatron", "python", "system", "packages"}


def test_the_commit_is_the_clones_also_when_a_tag_is_nearer():
    if not (CLONE / ".git").exists():
        pytest.skip("the tests run from something else than a clone")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CLONE, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert commit().removesuffix("-dirty") == head


def test_a_run_keeps_what_its_first_start_wrote(tmp_path: Path):
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"commit": "earlier"}))
    write_environment(path)
    assert read_environment(path) == {"commit": "earlier"}


def test_a_run_without_the_file_has_nothing_to_say_and_a_broken_one_is_named(tmp_path: Path):
    path = tmp_path / "environment.json"
    assert read_environment(path) == {}
    path.write_text("{")
    with pytest.raises(UserError, match=r"environment\.json: not JSON"):
        read_environment(path)


def test_a_new_run_also_gets_the_machine_and_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/paced", "run", "my recipe.yaml", "training.lr=3e-6"])
    monkeypatch.setenv("WORLD_SIZE", "4")
    write_environment(tmp_path / "environment.json")
    found = read_environment(tmp_path / "environment.json")
    assert found["command"] == "paced run 'my recipe.yaml' training.lr=3e-6"
    assert found["hardware"].endswith("; 4 processes")
    assert found.items() >= environment().items()


def test_the_machine_is_this_one():
    cores = len(os.sched_getaffinity(0))
    assert re.search(rf"\b{cores} CPU cores?\b", hardware())
    [kib] = re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    [gib] = re.findall(r"(\d+) GiB of memory", hardware())
    assert abs(int(gib) - int(kib) / 2**20) <= 0.5 + 0.02 * int(gib)


def test_a_program_that_only_calls_us_has_typed_no_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", "tests"])
    assert command() is None
