"""Measuring a student on the held-out problems, and showing all measurements at the end."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from paced_megatron.evaluation.accuracy import (
    FORGETTING,
    GREEDY,
    SAMPLED,
    TEST,
    EvaluationRow,
    add_row,
    measure,
    read_rows,
)
from paced_megatron.evaluation.plan import planned
from paced_megatron.evaluation.strata import read_strata, write_strata
from paced_megatron.inputs import ProblemSet
from paced_megatron.job import Job
from paced_megatron.pacing import pass_rates, write_rates_after
from paced_megatron.phases.card import describe
from paced_megatron.phases.forgetting import measure_forgotten, measure_initial
from paced_megatron.phases.needs import require, student_before
from paced_megatron.phases.rollouts import rollout_sampling, sample
from paced_megatron.report.table import evaluation_table
from paced_megatron.rollout.engine import Sampling
from paced_megatron.training.checkpoints import mark_best


def evaluate_before(job: Job, number: int) -> None:
    """Accuracy of the student that the stage starts from, as step 0: rows of evaluation.json; before the
    first stage also what lm-eval's tasks say of it."""
    evaluate(job, number, 0, student_before(job, number)[0])
    if number == 1:
        measure_initial(job)


def evaluate_after(job: Job, number: int) -> None:
    """Accuracy of the stage's exported student: rows of evaluation.json. After the last stage also its pass
    rates on the training problems, and what it has forgotten, where the configuration asks for them."""
    folder, settings = job.stage_folder(number), job.config.evaluation
    if job.inputs.test is None and not settings.pass_rates_after and not settings.forgetting_tasks:
        return job.say("no held-out problems (problems.test), so nothing is evaluated")
    require(job, folder.student, "export")
    evaluate(job, number, job.last_step(number), folder.student)
    if number == job.stage_numbers[-1]:
        if settings.pass_rates_after:
            _attempt_training_problems_again(job, number)
        measure_forgotten(job)
    describe(job, number)


def show_results(job: Job) -> None:
    """The table of all evaluations, where the results are, and the report."""

    def work() -> None:
        from paced_megatron.report import write_report  # late: it imports matplotlib

        rows = read_rows(job.folder.evaluation)
        if rows:
            job.console.print(evaluation_table(rows))
        job.say(f"results: {job.folder.path}")
        job.say(f"report:  {write_report(job.folder.path)}")

    job.world.lead.alone(work, "the report")


def evaluate(job: Job, number: int, step: int, weights: Path) -> None:
    """Measure the student in the folder `weights` in every way that the configuration asks for, unless that
    has been done."""
    if job.inputs.test is None:
        return

    def work() -> None:
        _make_strata(job)
        done = {row.key for row in read_rows(job.folder.evaluation)}
        for problem_set, decoding in planned(job.config):
            if (number, step, problem_set, decoding) not in done:
                row = _measured(job, number, step, weights, problem_set, decoding)
                add_row(job.folder.evaluation, row)
                job.say(f"stage {number}, step {step}: {_accuracy(row)}")
        note_best(job, number)

    job.world.lead.alone(work, f"evaluation at step {step} of stage {number}")


def note_best(job: Job, number: int) -> None:
    """Let the stage's link `checkpoints/best` name the checkpoint of the highest accuracy on the held-out
    problems, by evaluation.json. Rank 0 only."""
    accuracies = {
        row.step: row.accuracy
        for row in read_rows(job.folder.evaluation)
        if (row.stage, row.problem_set, row.decoding) == (number, TEST, SAMPLED)
    }
    mark_best(job.stage_folder(number).checkpoints, accuracies)


def is_measured(job: Job, number: int, step: int) -> bool:
    """Whether evaluation.json has all rows of this stage and step; it is rank 0's answer that counts."""
    done = {row.key for row in read_rows(job.folder.evaluation)}
    return all((number, step, *kind) in done for kind in planned(job.config))


def _measured(
    job: Job, number: int, step: int, weights: Path, problem_set: str, decoding: str
) -> EvaluationRow:
    problems = _problems(job, problem_set)
    sampling, attempts = _sampling(job), job.config.evaluation.attempts
    if decoding == GREEDY:
        sampling, attempts = replace(sampling, temperature=0.0, top_p=1.0, top_k=-1), 1
    return measure(
        sample(
            job,
            problems,
            weights=weights,
            version=f"stage-{number} step-{step}",
            path=job.stage_folder(number).evaluation_attempts(step, problem_set, decoding),
            sampling=sampling,
            per_problem=attempts,
            phase="evaluation",
            number=number,
            detail=f" at step {step}, {problem_set}, {decoding}",
        ),
        stage=number,
        step=step,
        problem_set=problem_set,
        decoding=decoding,
        levels={problem.id: problem.level for problem in problems.by_id.values()},
        strata=read_strata(job.folder.strata) if problem_set == TEST else {},
        sampling=asdict(sampling),
    )


def _problems(job: Job, problem_set: str) -> ProblemSet:
    problems = {TEST: job.inputs.test, FORGETTING: job.inputs.forgetting}[problem_set]
    assert problems is not None, "planned() names only those that the configuration has"
    return problems


def _sampling(job: Job) -> Sampling:
    settings = job.config.evaluation
    new_tokens = settings.max_new_tokens or job.config.rollout.max_new_tokens
    return Sampling(settings.temperature, settings.top_p, settings.top_k, new_tokens)


def _make_strata(job: Job) -> None:
    """What the initial student can do with each held-out problem: strata.jsonl."""
    attempts = job.config.evaluation.strata_attempts
    if attempts and not job.folder.strata.exists():
        assert job.inputs.test is not None
        made = sample(
            job,
            job.inputs.test,
            weights=job.inputs.student_folder,
            version="initial",
            path=job.stage_folder(1).strata_attempts,
            sampling=_sampling(job),
            per_problem=attempts,
            phase="strata",
            number=1,
        )
        write_strata(job.folder.strata, pass_rates(made))


def _attempt_training_problems_again(job: Job, number: int) -> None:
    """The trained student's pass rates on the training problems: pass_rates_after.jsonl."""
    folder = job.stage_folder(number)

    def work() -> None:
        if folder.pass_rates_after.exists():
            return
        attempts = sample(
            job,
            job.inputs.train,
            weights=folder.student,
            version=f"stage-{number}",
            path=folder.attempts_after,
            sampling=rollout_sampling(job),
            per_problem=job.config.rollout.attempts,
            phase="attempts_after",
            number=number,
        )
        write_rates_after(folder.pass_rates_after, pass_rates(attempts))

    job.world.lead.alone(work, f"pass rates after stage {number}")


def _accuracy(row: EvaluationRow) -> str:
    what = f"{row.problem_set}, {row.decoding}: accuracy {row.accuracy:.1%}"
    if row.standard_error is None:
        return f"{what} (1 problem, avg@{row.attempts})"
    return (
        f"{what} ± {row.standard_error:.1%} (standard error over {row.problems} problems, avg@{row.attempts})"
    )
