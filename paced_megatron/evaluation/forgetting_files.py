"""Measurements by lm-eval's tasks that are kept: which are missing, can they be made, and making them. Knows
no Megatron."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from paced_megatron.config import Config, EvaluationConfig
from paced_megatron.evaluation.forgetting import KEY, check_installed, check_tasks, measure_forgetting
from paced_megatron.evaluation.forgotten import TaskMeasurement, read_measurement, write_measurement
from paced_megatron.inputs import Inputs
from paced_megatron.models.identity import tokenizer_identity, weights_identity
from paced_megatron.progress import track, warn
from paced_megatron.run_folder import RunFolder
from paced_megatron.training.budget import end_of

BEGIN = (1, 0)  # (stage, step) of the student with which a run begins


@dataclass(frozen=True)
class Asked:
    """How tasks are put: the keys `evaluation.forgetting_*` without that prefix; see `measure_forgetting`.

    Attributes:
        where: who asks for them, for messages.
    """

    fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    include_path: Path | None = None
    where: str = KEY


def asked_by(settings: EvaluationConfig) -> Asked:
    """What a configuration asks for."""
    return Asked(
        settings.forgetting_fewshot,
        settings.forgetting_limit,
        settings.forgetting_batch_size,
        settings.forgetting_include_path,
    )


def files_of(config: Config, folder: RunFolder, when: tuple[int, int]) -> dict[str, Path]:
    """Task -> where a run keeps its measurement of the student that (stage, step) names."""
    stage = folder.stage(when[0])
    return {task: stage.forgetting(when[1], task) for task in config.evaluation.forgetting_tasks}


def missing_tasks(
    files: Mapping[str, Path], asked: Asked, weights: Path, identity: str | None = None
) -> list[str]:
    """The tasks of which there is no measurement of these weights that was asked for in this way.

    Args:
        identity: of the weights, where it is known already; else they are read, once a task has a
            measurement.
    """
    found = {task: read_measurement(path) for task, path in files.items()}
    if not any(found.values()) or not weights.is_dir():
        return list(found)  # a large model's weights take their time to read
    wanted = asked.fewshot, asked.limit, identity or weights_identity(weights), tokenizer_identity(weights)
    return [task for task, one in found.items() if one is None or not one.is_of(*wanted)]


def outdated(students: Sequence[Mapping[str, Path]], where: str) -> list[list[str]]:
    """Which tasks of each student have to be measured again to be compared: where a task was measured by
    several versions of lm-eval, those by another than the one installed. Those of one version stay.

    Args:
        students: as `files_of` for each.
        where: who asks, for the message.

    Raises:
        UserError: there are such, and lm-eval is not installed.
    """
    versions = [
        {task: one.lm_eval_version for task, path in files.items() if (one := read_measurement(path))}
        for files in students
    ]
    several = {
        task for of in versions for task in of if len({one[task] for one in versions if task in one}) > 1
    }
    if not several:
        return [[] for _ in students]
    check_installed(where)
    return [[task for task in several & of.keys() if of[task] != version("lm_eval")] for of in versions]


def check_forgetting(config: Config, folder: RunFolder, inputs: Inputs) -> None:
    """Load the tasks that a run has still to measure, with their data, before any work is done.

    Raises:
        UserError: as `check_tasks`.
    """
    asked = asked_by(config.evaluation)
    missing = missing_tasks(files_of(config, folder, BEGIN), asked, inputs.student_folder)
    if not missing:
        end = end_of(folder, config)
        trained = folder.stage(len(config.stages)).student
        missing = (
            missing_tasks(files_of(config, folder, end), asked, trained)
            if end
            else list(config.evaluation.forgetting_tasks)
        )
    if missing:
        check_tasks(missing, asked.include_path, asked.where)


def measure_missing(
    what: str,
    files: Mapping[str, Path],
    asked: Asked,
    weights: Path,
    again: Collection[str] = (),
    *,
    device: str,
    log: Path,
    console: Console,
    check: Callable[[str], None],
    on_done: Callable[[TaskMeasurement, float], None] = lambda one, seconds: None,
) -> None:
    """Measure the student in a folder on those of the tasks that are missing; a file each.

    Args:
        what: for the progress line.
        files: task -> where its measurement is kept.
        again: those that are measured again though they are there (`outdated`).
        log: the file that lm-eval's own words are appended to.
        check: called before each forward pass with what is kept; may raise to stop.
        on_done: called with each new measurement and its seconds, when it is on disk.
    """
    identity = weights_identity(weights)
    missing = missing_tasks(files, asked, weights, identity)
    tasks = [task for task in files if task in missing or task in again]
    if not tasks:
        return
    for task in (task for task in tasks if task not in missing):
        warn(console, f"{what}: {task} was measured by another version of lm-eval; it is measured again")
    what = f"{what}, {', '.join(tasks)}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as words, track(what, total=None, unit="sequences", console=console) as bar:

        def on_batch(sequences: int) -> None:
            bar.advance(sequences)
            check(f"{what}: tasks that are measured are kept")

        started = time.perf_counter()
        for one in measure_forgetting(
            weights,
            tasks,
            num_fewshot=asked.fewshot,
            limit=asked.limit,
            batch_size=asked.batch_size,
            include_path=asked.include_path,
            device=device,
            weights=identity,
            where=asked.where,
            on_batch=on_batch,
            log=words,
        ):
            write_measurement(files[one.task], replace(one, tokenizer=tokenizer_identity(weights)))
            seconds, started = time.perf_counter() - started, time.perf_counter()
            on_done(one, seconds)
            if one.cut_requests:
                warn(
                    console,
                    f"warning: lm-eval, {one.task}: {one.cut_requests} prompts are longer than the model's "
                    "context and were cut on their left; ask for fewer examples (fewshot)",
                )
