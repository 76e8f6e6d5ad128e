"""A run's files as the report reads them, and what is said when one is not there.

All or nothing: a picture of a run that has not ended is taken for its result once it has left the terminal,
so an unfinished run gives no report but a line that names what is missing and the verb that makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paced_megatron.config import Config
from paced_megatron.config.io import recorded_config
from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import TEST, EvaluationRow, read_rows
from paced_megatron.evaluation.plan import planned
from paced_megatron.evaluation.strata import read_strata
from paced_megatron.report.attempts import AttemptCounts, attempt_counts
from paced_megatron.report.environment import read_environment
from paced_megatron.report.forgetting import read_forgetting
from paced_megatron.report.held_out import held_out_problems
from paced_megatron.run_folder import RunFolder, StageFolder
from paced_megatron.runtime.files import read_jsonl
from paced_megatron.timings import Timing, read_timings
from paced_megatron.training.budget import end_of, last_step

RowKey = tuple[int, int, str, str]  # `EvaluationRow.key`


@dataclass(frozen=True)
class StageRecord:
    """What a stage's files say; `pass_rates` and `metrics` are the lines of these files."""

    number: int
    pass_rates: list[dict[str, Any]]
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class Attempted:
    """A piece of work that made attempts, by `Timing.phase`'s name, and what came of it.

    Attributes:
        step, problem_set, decoding: of a measurement ("evaluation"), else None.
    """

    stage: int
    phase: str
    counts: AttemptCounts
    step: int | None = None
    problem_set: str | None = None
    decoding: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Which piece of work; the same in each run of an experiment."""
        return (self.stage, self.phase, self.step, self.problem_set, self.decoding)


@dataclass(frozen=True)
class RunRecord:
    """What a finished run's files say.

    Attributes:
        rows: of evaluation.json; none where the run has no held-out problems.
        last: (stage, step) of the measurement after training.
        attempted: what was attempted, in the order of the work; of the measurements the first and the last.
        problems: training problem -> its line of problems.jsonl.
        held_out: as `held_out_problems`.
        strata: test problem -> stratum.
        pass_rates_after: lines of the last stage's file; empty where it was not asked for.
        environment: what was written when the run began; empty for a run that is older than that file.
        forgetting: see `forgetting.read_forgetting`; empty where the run has no such file.
    """

    folder: RunFolder
    config: Config
    stages: list[StageRecord]
    last: tuple[int, int]
    rows: list[EvaluationRow]
    attempted: list[Attempted]
    problems: dict[str, dict[str, Any]]
    held_out: dict[str, dict[str, dict[str, Any]]]
    strata: dict[str, str]
    pass_rates_after: list[dict[str, Any]]
    timings: list[Timing]
    environment: dict[str, Any]
    forgetting: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.path.name

    def problem(self, work: Attempted, problem_id: str) -> dict[str, Any]:
        """The `problem` and `answer` of one that was attempted; empty where they are not known."""
        problem_set = TEST if work.phase == "strata" else work.problem_set
        known = self.problems if problem_set is None else self.held_out.get(problem_set, {})
        return known.get(problem_id, {})

    @property
    def first(self) -> tuple[int, int]:
        """(stage, step) of the measurement before training."""
        return (1, 0)

    def correct(self, key: RowKey) -> dict[str, tuple[int, int]]:
        """Problem -> (correct attempts, attempts) of a row of the first or last measurement."""
        stage, step, problem_set, decoding = key
        of = (stage, "evaluation", step, problem_set, decoding)
        return next(each.counts.correct for each in self.attempted if each.key == of)


def read_run(folder: RunFolder) -> RunRecord:
    """Read a finished run.

    Raises:
        UserError: no run's folder; or a file is missing, unfinished or broken. It names the file and the
            verb.
    """
    config = read_config(folder)
    for problem in missing(folder, config):
        raise UserError(problem)
    stages = [_read_stage(folder.stage(number + 1)) for number in range(len(config.stages))]
    last, end = folder.stage(len(config.stages)), end_of(folder, config)
    assert end is not None, "it would be among what is missing"
    rows = read_rows(folder.evaluation) if config.problems.test else []
    order = planned(config)
    ends = sorted(
        (row for row in rows if (row.stage, row.step) in ((1, 0), end)),
        key=lambda row: (row.stage, row.step, order.index((row.problem_set, row.decoding))),
    )
    return RunRecord(
        folder=folder,
        config=config,
        stages=stages,
        last=end,
        rows=rows,
        attempted=list(_attempted(folder, config, ends)),
        problems={record["id"]: record for record in read_jsonl(folder.problems)},
        held_out=held_out_problems(config.problems),
        strata=read_strata(folder.strata),
        pass_rates_after=read_jsonl(last.pass_rates_after),
        timings=read_timings(folder.timings),
        environment=read_environment(folder.environment),
        forgetting=read_forgetting(folder.forgetting),
    )


def _attempted(folder: RunFolder, config: Config, rows: Sequence[EvaluationRow]) -> Iterator[Attempted]:
    """Each file of attempts that the run has. Training needs none that a measurement doesn't, so that one
    which was moved away to make room, or emptied, is only not counted."""
    for number in range(1, len(config.stages) + 1):
        files = folder.stage(number)
        for phase, paths in (
            ("attempts", [files.attempts]),
            ("responses", [files.responses]),
            ("rollouts", sorted(files.rollouts(0).parent.glob("step-*.jsonl"))),
            ("strata", [files.strata_attempts]),
        ):
            counts = attempt_counts(*(path for path in paths if path.is_file()))
            if counts.outcomes:
                yield Attempted(number, phase, counts)
        for row in (row for row in rows if row.stage == number):
            counts = attempt_counts(_evaluation_attempts(folder, row.key))
            yield Attempted(number, "evaluation", counts, row.step, row.problem_set, row.decoding)
        if files.attempts_after.is_file() and (counts := attempt_counts(files.attempts_after)).outcomes:
            yield Attempted(number, "attempts_after", counts)


def read_config(folder: RunFolder) -> Config:
    """The run's configuration. Raises UserError where the folder is not a run's."""
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder; name a run's folder, as run_dir does")
    if not folder.config.is_file():
        raise UserError(
            f"{folder.path}: not a run's folder (it has no config.yaml); name one, as run_dir does"
        )
    return recorded_config(folder.config)


def missing(folder: RunFolder, config: Config) -> Iterator[str]:
    """What a report needs and the folder lacks, a line each: the file, and the verb that makes it."""
    for number in range(1, len(config.stages) + 1):
        files = folder.stage(number)
        option = f" --stage {number}" if len(config.stages) > 1 else ""
        if not files.pass_rates.is_file():
            yield _line(files.pass_rates, "weigh", option)
        yield from _missing_steps(files, last_step(files, config.budget(number)), option)
    if config.problems.test:
        yield from _missing_evaluations(folder, config)
    after = folder.stage(len(config.stages)).pass_rates_after
    if config.evaluation.pass_rates_after and not after.is_file():
        yield _line(after, "evaluate")


def _missing_steps(files: StageFolder, last: int | None, option: str) -> Iterator[str]:
    steps = {record["step"] for record in read_jsonl(files.metrics)}
    # Where there are checkpoints, training goes on from the last one, and leaves earlier steps as they are.
    anew = f"move {files.checkpoints} away too, and `paced train CONFIG{option}` takes the steps again"
    if not files.metrics.is_file():
        yield (
            f"{files.metrics} is missing: {anew}"
            if files.checkpoints.exists()
            else _line(files.metrics, "train", option)
        )
    elif last is None and files.student.exists():  # `paced train` would have nothing to do
        yield (
            f"{files.training} is missing: put it back, or remove {files.student} too, and "
            f"`paced train CONFIG{option}` writes it again"
        )
    elif last is None:
        yield f"{files.training} is missing: training has not ended; `paced train CONFIG{option}` goes on"
    elif max(steps, default=0) < last:
        yield (
            f"{files.metrics} ends at step {max(steps, default=0)} of {last}: training has not ended; "
            f"`paced train CONFIG{option}` goes on"
        )
    elif len(steps) < last:
        yield f"{files.metrics} has {len(steps)} of {last} steps: move it away; {anew}"


def _missing_evaluations(folder: RunFolder, config: Config) -> Iterator[str]:
    if not folder.evaluation.is_file():
        yield _line(folder.evaluation, "evaluate")
        return
    measured = {row.key for row in read_rows(folder.evaluation)}
    end = end_of(folder, config)
    for stage, step in ((1, 0), *([end] if end else [])):
        for problem_set, decoding in planned(config):
            attempts = folder.stage(stage).evaluation_attempts(step, problem_set, decoding)
            if (stage, step, problem_set, decoding) not in measured:
                yield (
                    f"{folder.evaluation} has no row of stage {stage}, step {step}, {problem_set}, "
                    f"{decoding}: {_go_on('evaluate' if step else 'run')}"
                )
            elif not attempts.is_file() or not attempts.stat().st_size:
                what = "is empty" if attempts.is_file() else "is missing"
                yield (
                    f"{attempts} {what}, though {folder.evaluation} has its row: move evaluation.json away, "
                    "and `paced run CONFIG` measures again"
                )
    if config.evaluation.strata_attempts and not folder.strata.is_file():
        yield _line(folder.strata, "run")


def _evaluation_attempts(folder: RunFolder, key: RowKey) -> Path:
    stage, step, problem_set, decoding = key
    return folder.stage(stage).evaluation_attempts(step, problem_set, decoding)


def _line(path: Path, verb: str, option: str = "") -> str:
    return f"{path} is missing: {_go_on(verb, option)}"


def _go_on(verb: str, option: str = "") -> str:
    return f"`paced {verb} CONFIG{option}` makes it"


def _read_stage(files: StageFolder) -> StageRecord:
    pass_rates, metrics = read_jsonl(files.pass_rates), read_jsonl(files.metrics)
    _check_keys(files.pass_rates, pass_rates, ("problem_id", "correct", "attempts", "kept", "weight"))
    _check_keys(files.metrics, metrics, ("step", "loss", "tokens", "step_time"))
    return StageRecord(files.number, pass_rates, metrics)


def _check_keys(path: Path, records: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    for number, record in enumerate(records, start=1):
        for key in keys:
            if key not in record:
                raise UserError(f"{path}:{number}: no {key}; the file is of another version, or was edited")
