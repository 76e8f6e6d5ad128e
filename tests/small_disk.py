"""A file system that is soon full, for tests of full disks: a small tmpfs. It takes root to mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """`folder`, made here, as a disk of this size ("4m"). The test is skipped where none may be mounted; the
    disk is gone when the block ends, whatever happened in it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Change a disk that is mounted: "ro", "size=1m"."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)
