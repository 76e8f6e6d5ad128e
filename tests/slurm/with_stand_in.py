"""`python -m MODULE ...`, for jobs with stand-in servers: as it is, but `paced` takes a server's word
for its weights, since a stand-in (tests/rollout/sglang_stand_in.py) has no log-probabilities.

    environment(folder)     an environment whose bin/python does this, for VENV in cluster.env
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


def environment(folder: Path) -> Path:
    """A folder like a venv's, whose interpreter is this one, with this file before the module."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    python.chmod(0o755)
    return folder


def server_package(folder: Path) -> Path:
    """A folder for PYTHONPATH in which `sglang.launch_server` is the stand-in."""
    (folder / "sglang").mkdir(parents=True)
    stand_in = TESTS / "rollout" / "sglang_stand_in.py"
    code = f"import runpy; runpy.run_path({str(stand_in)!r}, run_name='__main__')"
    (folder / "sglang" / "launch_server.py").write_text(code)
    return folder


def _offer(clients: Any, folder: Path, version: str) -> None:
    for one in clients:
        one.post("/update_weights_from_disk", {"model_path": str(folder), "weight_version": version})


def main() -> None:
    _, flag, module, *arguments = sys.argv
    assert flag == "-m"
    sys.path[0] = str(TESTS.parent)
    if module == "paced_megatron.cli":
        from paced_megatron.rollout.sglang import member

        member.sync_weights = _offer  # type: ignore[assignment]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
