"""environment.json: with what a run was begun, so that the report can say it later and elsewhere."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import paced_megatron
from paced_megatron.runtime.files import read_object, write_atomically

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
    """Write it, with the machine and the command of this start, unless the run has it from its first one."""
    if not path.exists():
        content = environment() | {"hardware": hardware()}
        if (typed := command()) is not None:
            content["command"] = typed
        write_atomically(path, json.dumps(content, indent=2) + "\n")


def hardware() -> str:
    """This machine in words: cores that this process may use, memory, GPUs; and the job's processes."""
    import torch  # late: a report needs none

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    gpus = torch.cuda.device_count()
    shown = f"{gpus} x {torch.cuda.get_device_name(0)}" if gpus else "no GPU"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return (
        f"{shown}, {_counted(cores, 'CPU core')} ({_processor()}), {memory:.0f} GiB of memory; "
        f"{_counted(processes, 'process', 'es')}"
    )


def command() -> str | None:
    """What was typed to start this process, as `paced ...`; None where it wasn't the command line."""
    if Path(sys.argv[0]).name not in ("paced", "cli.py"):
        return None
    return shlex.join(["paced", *sys.argv[1:]])


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def read_environment(path: Path) -> dict[str, Any]:
    """What `write_environment` wrote; empty for a run that is older than the file. Raises UserError."""
    return read_object(path, "remove it, and the report does without")


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
