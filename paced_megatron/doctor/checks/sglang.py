"""SGLang: an environment of its own, found by its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.programs import ask

VARIABLE = "PACED_SGLANG_PYTHON"
IMPORT = "import sglang; print(sglang.__version__)"
IMPORT_S = 90.0
# Our PYTHONPATH is for our environment, and would shadow packages of that one (rollout/sglang/launcher.py).
NOT_ITS = ("PYTHONPATH",)


def check(asked: Asked) -> Finding:
    """Whether the interpreter that the run, or else the environment, names has an SGLang that imports."""
    rollout = None if asked.config is None else asked.config.rollout
    named = rollout.launch.python if rollout is not None and rollout.engine == "sglang" else None
    key = "rollout.launch.python" if named else VARIABLE
    python = named or Path(os.environ.get(VARIABLE, ""))
    if not named and not os.environ.get(VARIABLE):
        return ok(
            f"none named ({VARIABLE}, rollout.launch.python): the embedded engine samples, which is enough "
            "for small models; SGLang lives in an environment of its own (docs/install.md)"
        )
    environment = {name: value for name, value in os.environ.items() if name not in NOT_ITS}
    if named and rollout is not None:
        environment |= rollout.launch.env
    answer = ask([str(python), "-c", IMPORT], IMPORT_S, environment)
    if answer.code == 0 and answer.lines:
        return ok(f"SGLang {answer.lines[-1]} imports in {python} ({key})")
    tell = problem if named else note
    return tell(
        f"{key}={python} has no SGLang that works: {answer.why}",
        "name the interpreter of an environment that has SGLang (docs/install.md)",
    )
