"""Models on benchmarks: what is missing of their attempts is made, and all of them become numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import groupby

from rich.console import Console

from paced_megatron.evaluation.measurement import RESULT, Measurement, by_problem_id, numbers
from paced_megatron.evaluation.task import Task
from paced_megatron.evaluation.votes import VOTES, wrong_votes
from paced_megatron.problems.verify import Verifier
from paced_megatron.progress import Progress, say, track
from paced_megatron.rollout.attempts import Attempt, recover_attempts
from paced_megatron.rollout.engine import RolloutEngine
from paced_megatron.rollout.engines import JobEngine
from paced_megatron.rollout.shown import collect_shown
from paced_megatron.runtime.files import sweep_leftovers, write_atomically
from paced_megatron.runtime.run_lock import run_lock
from paced_megatron.runtime.signals import stop_if_asked

SETTINGS = "settings.json"


def evaluate(
    tasks: Sequence[Task],
    engines: JobEngine,
    console: Console,
    before_loading: Callable[[Iterator[Task]], None] = lambda missing: None,
) -> list[Measurement]:
    """A measurement for each task, in their order; one model's tasks stand together.

    A model is loaded once, and not at all where all of its attempts are there.

    Args:
        before_loading: called, before any model is loaded, with the tasks of which attempts are missing; they
            are found by reading their files, when they are asked for. It may raise.

    Raises:
        UserError: a folder of results can't be written, another process is at work in it, or a file in it is
            broken; whatever the engine refuses.
        Stopped: by a signal, between two units of work, with the last one on disk.
    """
    with ExitStack() as held:
        for task in tasks:
            _claim(task, held)
        before_loading(task for task in tasks if _recorded(task) is None)
        verifier = Verifiers(held)
        return [
            measurement
            for _, own in groupby(tasks, key=lambda task: task.target)
            for measurement in _evaluate_model(list(own), engines, verifier, console)
        ]


class Verifiers:
    """One Verifier for all tasks that score alike, until `held` is left: a worker takes a second to start."""

    def __init__(self, held: ExitStack) -> None:
        self._held = held
        self._made: dict[str, Verifier] = {}

    def of(self, task: Task) -> Verifier:
        key = repr(task.verifier)
        if key not in self._made:
            self._made[key] = self._held.enter_context(Verifier(task.verifier))
        return self._made[key]


def _claim(task: Task, held: ExitStack) -> None:
    """The task's folder, with its settings in it, for this process alone."""
    held.enter_context(run_lock(task.folder, "name a place for the results in --out"))
    sweep_leftovers(task.folder)
    settings = task.folder / SETTINGS
    if not settings.exists():
        write_atomically(settings, json.dumps(task.settings, indent=1) + "\n")


def _evaluate_model(
    tasks: Sequence[Task], engines: JobEngine, verifiers: Verifiers, console: Console
) -> list[Measurement]:
    found = [_recorded(task) for task in tasks]
    if any(attempts is None for attempts in found):
        with engines.loaded(tasks[0].target.folder, tasks[0].version) as engine:
            found = [
                _attempted(task, engine, verifiers, console) if attempts is None else attempts
                for task, attempts in zip(tasks, found, strict=True)
            ]
    return [
        _measured(task, attempts, verifiers.of(task), console)
        for task, attempts in zip(tasks, found, strict=True)
        if attempts is not None  # always, by now
    ]


def _recorded(task: Task) -> list[Attempt] | None:
    """The task's attempts, where all of them are there: then no model need be loaded."""
    recorded = {attempt.key: attempt for attempt in recover_attempts(task.attempts_file)}
    requests = task.requests()
    complete = recorded.keys() == {request.key for request in requests}
    if complete and {attempt.weight_version for attempt in recorded.values()} == {task.version}:
        return [recorded[request.key] for request in requests]
    return None


def _attempted(task: Task, engine: RolloutEngine, verifiers: Verifiers, console: Console) -> list[Attempt]:
    path, requests = task.attempts_file, task.requests()
    what = f"{task.problems.title}, {task.target.name}"
    done = len(recover_attempts(path))

    def stop(done: int) -> None:
        stop_if_asked(f"{what}: {done} of {len(requests)} attempts are in {path}")

    stop(done)
    with track(what, total=len(requests), unit="attempts", console=console, done=done) as bar:
        attempts, _ = collect_shown(
            engine,
            requests,
            task.protocol.sampling,
            by_id=task.by_id,
            verifier=verifiers.of(task),
            tokenizer=task.tokenizer,
            path=path,
            bar=bar,
            stop_if_asked=stop,
        )
    return attempts


@contextmanager
def _comparing(task: Task, console: Console) -> Iterator[Callable[[], None]]:
    """What to call before each problem whose wrong answers are compared: it shows how many there were, and
    ends the verb where a signal asks for that. Told again there are none, and nothing is shown."""
    with ExitStack() as held:
        bars: list[Progress] = []

        def next_problem() -> None:
            stop_if_asked(f"all attempts are in {task.attempts_file}")
            if not bars:
                what = f"{task.problems.title}, {task.target.name}: equal wrong answers, for maj@k"
                bars.append(held.enter_context(track(what, total=None, unit="problems", console=console)))
            bars[0].advance()

        yield next_problem


def _measured(task: Task, attempts: Sequence[Attempt], verifier: Verifier, console: Console) -> Measurement:
    """The measurement; it is in result.json, too."""
    protocol, problems = task.protocol, task.problems
    with _comparing(task, console) as next_problem:
        wrong = wrong_votes(
            by_problem_id(attempts),
            protocol.pass_at,
            task.verifier.answer_marker,
            verifier.judge_many,
            task.folder / VOTES,
            check=next_problem,
        )
    measurement = Measurement(
        target=task.target.name,
        folder=str(task.target.folder),
        weights=task.weights,
        benchmark=problems.name,
        title=problems.title,
        source=problems.source,
        total_problems=problems.total,
        attempts=protocol.attempts,
        preset=protocol.preset,
        preset_source=protocol.source,
        preset_changed=list(protocol.changed),
        sampling=asdict(protocol.sampling),
        prompts=task.settings["prompts"],
        verifier=task.settings["verifier"],
        seed=protocol.seed,
        engine=task.engine,
        **numbers(attempts, protocol.pass_at, wrong),
    )
    write_atomically(task.folder / RESULT, measurement.to_json())
    return measurement


def say_warnings(measurements: Sequence[Measurement], console: Console) -> None:
    """What is odd about the outcomes of each."""
    for one in measurements:
        for warning in one.warnings:
            say(console, f"warning: {one.title}, {one.target}: {warning}")
