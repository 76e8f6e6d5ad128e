"""Megatron-Core: the version for this Python, and does it import?"""

from __future__ import annotations

from importlib.metadata import version

from paced_megatron.doctor.check import Asked, Finding, ok, problem
from paced_megatron.doctor.checks.packages import mismatch_of


def check(asked: Asked) -> Finding:
    """What a student and a teacher are made of."""
    wrong = mismatch_of("megatron-core")
    if wrong:
        return problem(
            f"{wrong} on this Python: each has its own version of it", "pip install -e . -c constraints.txt"
        )
    import paced_megatron.models.gpt  # noqa: F401  all of it that a run imports

    return ok(f"Megatron-Core {version('megatron-core')} imports, with the models that stand on it")
