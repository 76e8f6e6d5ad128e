"""README.md in the exported student's folder, from what the run's files say by now."""

from __future__ import annotations

from pathlib import Path

from paced_megatron.evaluation.accuracy import read_rows
from paced_megatron.inputs import ProblemSet
from paced_megatron.job import Job
from paced_megatron.report.environment import read_environment
from paced_megatron.report.model_card import Data, license_of, model_card, public_name, write_card
from paced_megatron.runtime.files import read_object, sha256
from paced_megatron.training.budget import last_step


def describe(job: Job, number: int) -> None:
    """Write the card of the stage's exported student anew; nothing happens where somebody has written one.

    The folder was whole before, and is: neither resuming nor an engine looks at this file.
    """

    def work() -> None:
        folder = job.stage_folder(number).student
        if not folder.is_dir():
            return
        text = model_card(
            job.config,
            number,
            data=_data(job),
            last_step=last_step(job.stage_folder(number), job.config.budget(number)),
            rows=read_rows(job.folder.evaluation),
            forgetting=read_object(job.folder.forgetting, "remove it, and `paced evaluate` writes it anew"),
            environment=read_environment(job.folder.environment),
            license=license_of(job.inputs.student_folder),
        )
        write_card(folder, text)

    job.world.lead.alone(work, f"the model card of stage {number}")


def _data(job: Job) -> list[Data]:
    problems = job.config.problems
    sets: tuple[tuple[str, str | None, ProblemSet | None], ...] = (
        ("training", problems.train, job.inputs.train),
        ("test", problems.test, job.inputs.test),
        ("forgetting", problems.forgetting, job.inputs.forgetting),
    )
    return [
        Data(purpose, public_name(source), len(found), _hash(source))
        for purpose, source, found in sets
        if source is not None and found is not None
    ]


def _hash(source: str) -> str | None:
    return sha256(Path(source)) if Path(source).is_file() else None
