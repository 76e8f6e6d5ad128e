"""Other programs that a check asks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a program said. `code` is None where it was not there, could not be run, or took too long."""

    code: int | None
    out: str = ""
    why: str = ""

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.out.splitlines() if line.strip()]


def is_there(program: str) -> bool:
    """Whether it is on the PATH."""
    return shutil.which(program) is not None


def ask(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Answer:
    """Run it and wait; it is killed after `seconds`. `why` is the last line of what it said on stderr."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=env, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Answer(None, why=f"no answer within {seconds:g} s")
    except OSError as error:
        return Answer(None, why=error.strerror or str(error))
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Answer(done.returncode, done.stdout, said[-1] if said else f"it ended with code {done.returncode}")
