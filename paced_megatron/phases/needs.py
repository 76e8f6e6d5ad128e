"""What a phase needs of those before it, or the verb that makes it."""

from __future__ import annotations

from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.job import Job
from paced_megatron.rollout.attempts import Attempt, read_attempts


def student_before(job: Job, number: int) -> tuple[Path, str]:
    """The student that the stage starts from (folder, version); UserError on every rank where it isn't made
    yet."""
    weights, version = job.student_before(number)
    require(job, weights, f"export --stage {number - 1}")
    return weights, version


def require(job: Job, path: Path, verb: str) -> None:
    """Raise UserError on every rank when rank 0 does not see the path: the verb that makes it has to run
    first."""
    if not job.world.lead.agree(path.exists()):
        raise UserError(f"{path} is missing: run `paced {verb}` first")


def read_recorded(path: Path, verb: str) -> list[Attempt]:
    """The attempts in a file; UserError names the verb that makes it where it isn't there."""
    if not path.exists():
        raise UserError(f"{path} is missing: run `paced {verb}` first")
    return read_attempts(path)
