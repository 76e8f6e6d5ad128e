"""The student in the middle of its training as a Hugging Face folder, for an engine to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paced_megatron.job import Job
from paced_megatron.models.folder import save_folder
from paced_megatron.models.gpt import HiddenStatesModel


def save_snapshot(job: Job, student: Sequence[HiddenStatesModel], out: Path) -> None:
    """Write the student to `out`, in the place of what a killed run or an earlier step left there. A
    collective; all ranks' weights have to be settled (`Student.settle`)."""
    save_folder(
        student,
        job.inputs.student,
        job.world.groups,
        source=job.inputs.student_folder,
        out=out,
        replace=True,
    )
