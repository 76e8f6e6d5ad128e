"""Fixtures for jobs that are launched: the ranks' module, and parents that wait for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.launched import CHILD, ROOT, child_pids, start_parent, wait_until


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module to launch, which the child processes find on their path."""
    (tmp_path / "launched_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return "launched_child"


@pytest.fixture
def parent_of(child: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a parent and waits until both its children have said that they are ready."""
    parents = []

    def start(what: str, stop_grace_s: float = 60.0) -> subprocess.Popen[bytes]:
        parents.append(start_parent(what, tmp_path, stop_grace_s))
        wait_until(lambda: all(child_pids(tmp_path)))
        return parents[-1]

    yield start
    for parent in parents:
        parent.kill()
        parent.wait()
