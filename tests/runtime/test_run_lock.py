"""One job at a time in a run's folder: runtime/run_lock.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paced_megatron.errors import UserError
from paced_megatron.runtime.run_lock import run_lock

ROOT = Path(__file__).resolve().parents[2]
HOLD = (
    "import sys, time; from pathlib import Path; from paced_megatron.runtime.run_lock import run_lock\n"
    "with run_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def holder_of(run_dir: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_a_second_start_while_the_first_lives_names_its_process_and_the_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "first"
    with holder_of(run_dir) as first:
        try:
            with pytest.raises(UserError) as caught, run_lock(run_dir):
                pass
        finally:
            first.kill()
    assert f"process {first.pid} on " in str(caught.value) and str(run_dir) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    with holder_of(tmp_path) as first:
        first.kill()
    with run_lock(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_the_lock_can_be_taken_again_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    with run_lock(tmp_path):
        pass
    with run_lock(tmp_path), run_lock(tmp_path / "another"):
        pass


def test_a_lock_taken_twice_in_one_process_is_refused_too(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(UserError, match="is at work in this folder"), run_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_or_written_is_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught, run_lock(tmp_path / "file" / "run"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'run'}: can't be written (Not a directory); choose another run_dir"
    )

    # A stand-in: root, who runs the tests in CI, may write everywhere.
    def denied(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UserError) as caught, run_lock(tmp_path, "name --out"):
        pass
    assert str(caught.value) == f"{tmp_path}: can't be written (Permission denied); name --out"
