"""Measurements by lm-eval's tasks that are kept: which are missing, can they be made, and making them. Knows
no Megatron."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from paced_megatron.config import Config, EvaluationConfig
from paced_megatron.evaluation.forgetting import KEY, check_tasks, measure_forgetting
from paced_megatron.evaluation.forgotten import TaskMeasurement, read_measurement, write_measurement
from paced_megatron.inputs import Inputs
from paced_megatron.progress import track, warn
from paced_megatron.run_folder import RunFolder
from paced_megatron.training.budget import end_of
from paced_megatron.training.teacher_cache import weights_identity

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
    wanted = asked.fewshot, asked.limit, identity or weights_identity(weights)
    return [task for task, one in found.items() if one is None or not one.is_of(*wanted)]


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
        log: the file that lm-eval's own words are appended to.
        check: called before each forward pass with what is kept; may raise to stop.
        on_done: called with each new measurement and its seconds, when it is on disk.
    """
    identity = weights_identity(weights)
    tasks = missing_tasks(files, asked, weights, identity)
    if not tasks:
        return
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
            write_measurement(files[one.task], one)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            on_done(one, seconds)
            if one.cut_requests:
                warn(
                    console,
                    f"warning: lm-eval, {one.task}: {one.cut_requests} prompts are longer than the model's "
                    "context and were cut on their left; ask for fewer examples (fewshot)",
                )
