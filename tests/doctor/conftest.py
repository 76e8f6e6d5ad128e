"""What the tests of the doctor share: programs that are faked by the PATH, and runs to ask about."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from loop.recipes import QUICKSTART
from paced_megatron.config.io import load_config
from paced_megatron.doctor import CHECKS, Asked, Finding, run_check

BASE = QUICKSTART / "quickstart.yaml"


@pytest.fixture
def found() -> Callable[..., Finding]:
    """Called with the name of a row of CHECKS: what it finds for a run (by default: for none)."""
    return lambda name, asked=None: run_check(CHECKS[name], asked or Asked())


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Asked]:
    """Called with overrides, the quickstart's base changed by them, its folder not yet there."""

    def ask(*overrides: str) -> Asked:
        return Asked(load_config(BASE, [f"run_dir={tmp_path / 'runs' / 'mine'}", *overrides]), "mine.yaml")

    return ask


@pytest.fixture
def hub_run(tmp_path: Path) -> Asked:
    """A run whose models are on the hub, and not in the cache."""
    document = {
        "run_dir": str(tmp_path / "run"),
        "problems": {"train": "train.jsonl"},
        "student": {"path": "nobody/has-this-student"},
        "teacher": {"path": "nobody/has-this-teacher"},
        "stages": [{"train_iters": 1}],
    }
    path = tmp_path / "hub.yaml"
    path.write_text(yaml.safe_dump(document))
    return Asked(load_config(path), "hub.yaml")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def program(programs: Path) -> Callable[[str, str], Path]:
    """Called with a name and lines of shell: a program on the PATH that does these."""

    def write(name: str, script: str) -> Path:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """Called with file -> source: a folder that comes first where modules are looked for, in other processes
    too."""

    def write(files: dict[str, str]) -> Path:
        folder = tmp_path / "modules"
        for name, source in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        inherited = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{inherited}")
        return folder

    return write
