"""Measuring a student on the held-out problems, and showing all measurements at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from paced_megatron.evaluation.accuracy import SAMPLED, TEST, EvaluationRow, add_row, measure, read_rows
from paced_megatron.job import Job
from paced_megatron.phases.needs import require, student_before
from paced_megatron.phases.rollouts import sample
from paced_megatron.report.table import evaluation_table
from paced_megatron.rollout.engine import Sampling


def evaluate_before(job: Job, number: int) -> None:
    """Accuracy of the student that the stage starts from, as step 0: a row of evaluation.json."""
    evaluate(job, number, 0, student_before(job, number)[0])


def evaluate_after(job: Job, number: int) -> None:
    """Accuracy of the stage's exported student: a row of evaluation.json."""
    folder = job.stage_folder(number)
    if job.inputs.test is None:
        return job.say("no held-out problems (problems.test), so nothing is evaluated")
    require(job, folder.student, "export")
    evaluate(job, number, job.stage(number).train_iters, folder.student)


def show_results(job: Job) -> None:
    """The table of all evaluations so far, and where the results are."""
    rows = read_rows(job.folder.evaluation) if job.world.is_lead else []
    if rows:
        job.console.print(evaluation_table(rows))
    job.say(f"results: {job.folder.path}")


def evaluate(job: Job, number: int, step: int, weights: Path) -> None:
    """Measure the student in the folder `weights`, unless that has been done."""
    test, settings = job.inputs.test, job.config.evaluation
    if test is None:
        return

    def work() -> None:
        if is_measured(job, number, step):
            return
        new_tokens = settings.max_new_tokens or job.config.rollout.max_new_tokens
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, new_tokens)
        attempts = sample(
            job,
            test,
            weights=weights,
            version=f"stage-{number} step-{step}",
            path=job.stage_folder(number).evaluation_attempts(step, TEST, SAMPLED),
            sampling=sampling,
            per_problem=settings.attempts,
            what=f"stage {number}: evaluation at step {step}",
        )
        levels = {problem.id: problem.level for problem in test.by_id.values()}
        row = measure(
            attempts,
            stage=number,
            step=step,
            problem_set=TEST,
            decoding=SAMPLED,
            levels=levels,
            strata={},
            sampling=asdict(sampling),
        )
        add_row(job.folder.evaluation, row)
        job.say(f"stage {number}, step {step}: {_accuracy(row)}")

    job.world.lead.alone(work, f"evaluation at step {step} of stage {number}")


def is_measured(job: Job, number: int, step: int) -> bool:
    """Whether evaluation.json has a row of this stage and step; it is rank 0's answer that counts."""
    return any((row.stage, row.step) == (number, step) for row in read_rows(job.folder.evaluation))


def _accuracy(row: EvaluationRow) -> str:
    return (
        f"accuracy {row.accuracy:.1%} ± {row.standard_error:.1%} "
        f"(standard error over {row.problems} problems, avg@{row.attempts})"
    )
