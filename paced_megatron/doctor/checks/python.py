"""Which Python runs this."""

from __future__ import annotations

import platform
import sys

from paced_megatron.doctor.check import Asked, Finding, ok, problem

OLDEST, FIRST_TOO_NEW = (3, 11), (3, 14)  # as python_requires in setup.py


def check(asked: Asked) -> Finding:
    """A version that the package is for."""
    where = f"Python {platform.python_version()} in {sys.prefix}"
    if OLDEST <= sys.version_info[:2] < FIRST_TOO_NEW:
        return ok(where)
    return problem(
        f"{where}: this package is for 3.11, 3.12 and 3.13",
        "make an environment with one of them (docs/install.md)",
    )
