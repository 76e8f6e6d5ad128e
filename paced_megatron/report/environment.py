"""environment.json: with what a run was begun, so that the report can say it later and elsewhere."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import paced_megatron
from paced_megatron.errors import UserError
from paced_megatron.runtime.files import write_atomically

# What decides a run's numbers; constraints.txt has the rest.
_PACKAGES = ("torch", "megatron-core", "transformers", "tokenizers", "math-verify", "numpy")


def environment() -> dict[str, Any]:
    """The commit, the version of Python and of the packages that decide a run's numbers, the system."""
    return {
        "commit": commit(),
        "paced_megatron": paced_megatron.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def write_environment(path: Path) -> None:
    """Write it, unless the run has it from its first start."""
    if not path.exists():
        write_atomically(path, json.dumps(environment(), indent=2) + "\n")


def read_environment(path: Path) -> dict[str, Any]:
    """What `write_environment` wrote; empty for a run that is older than the file. Raises UserError."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not JSON ({error}); remove it, and the report does without") from None


def commit() -> str:
    """The commit of the clone that runs, `-dirty` behind it where files differ; "not a clone" elsewhere."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(paced_megatron.__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not a clone"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
