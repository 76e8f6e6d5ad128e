"""What lm-eval's tasks say of the student before and after training: evaluation.forgetting_tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paced_megatron.evaluation.forgetting import KEY
from paced_megatron.evaluation.forgetting_files import BEGIN, asked_by, files_of, measure_missing, outdated
from paced_megatron.evaluation.forgotten import (
    Forgotten,
    TaskMeasurement,
    forgotten,
    in_words,
    read_measurement,
    write_summary,
)
from paced_megatron.job import Job
from paced_megatron.timings import Timing, append_timing
from paced_megatron.training.budget import end_of


def measure_initial(job: Job) -> None:
    """The student with which the run begins, on every task, unless that has been done."""
    if job.config.evaluation.forgetting_tasks:
        job.world.lead.alone(
            lambda: _measure(job, BEGIN, job.inputs.student_folder), "lm-eval before training"
        )


def measure_forgotten(job: Job) -> None:
    """The trained student on every task, and what it has forgotten: forgetting.json. Nothing happens where
    the configuration names no task."""
    if not job.config.evaluation.forgetting_tasks:
        return

    def work() -> None:
        end = end_of(job.folder, job.config)
        assert end is not None, "training has ended"
        students = {BEGIN: job.inputs.student_folder, end: job.stage_folder(end[0]).student}
        for when, weights in students.items():  # the first too: the verbs may be called one by one
            _measure(job, when, weights)
        again = outdated([files_of(job.config, job.folder, when) for when in students], KEY)
        for (when, weights), tasks in zip(students.items(), again, strict=True):
            _measure(job, when, weights, tasks)
        for one in _summarise(job, end):
            job.say(in_words(one))

    job.world.lead.alone(work, "lm-eval after training")


def _measure(job: Job, when: tuple[int, int], weights: Path, again: Sequence[str] | None = None) -> None:
    """A file for each task that is missing, or for those of `again`. Rank 0 only."""
    if again is not None and not again:
        return
    (stage, step), files = when, files_of(job.config, job.folder, when)

    def note(one: TaskMeasurement, seconds: float) -> None:
        name = str(files[one.task].relative_to(job.folder.path))
        append_timing(job.folder.timings, Timing("forgetting", stage, name, seconds, 0, 0))

    measure_missing(
        f"stage {stage}: lm-eval at step {step}",
        files,
        asked_by(job.config.evaluation),
        weights,
        again or (),
        device=str(job.world.device),
        log=job.folder.logs / "lm-eval.log",
        console=job.console,
        check=job.world.lead.stop_work_if_asked,
        on_done=note,
    )


def _summarise(job: Job, end: tuple[int, int]) -> list[Forgotten]:
    lost: list[Forgotten] = []
    measured: list[tuple[tuple[int, int], TaskMeasurement]] = []
    first, last = (files_of(job.config, job.folder, when) for when in (BEGIN, end))
    for task in first:
        before, after = read_measurement(first[task]), read_measurement(last[task])
        assert before is not None and after is not None, "_measure made them"
        measured += [(BEGIN, before), (end, after)]
        assert before.same_question(after), "what could not be compared was measured again"
        lost += forgotten(before, after)
    write_summary(job.folder.forgetting, measured, lost)
    return lost
