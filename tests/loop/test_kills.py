"""Killed and started again: nothing is lost or there twice, and the weights are those of a whole run.

Kills are drawn from a seed: a layout, all ranks or one of them, and a moment after the first step, either
uniform over the time that is left of a run or within a checkpoint write. Five here; PACED_FULL_RESUME=1 has
fifty.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from loop.forked import Forkery
from loop.interrupted import (
    EVALUATION_ATTEMPTS,
    LAYOUTS,
    SECTIONS,
    TRAIN_ITERS,
    assert_same_run,
    in_a_save,
    in_rollouts,
    in_training,
    lines,
    recipe_at,
    steps_taken,
    wait_for,
    world_size,
)
from loop.recipes import ATTEMPTS, TEST_PROBLEMS, TRAIN_PROBLEMS, keys, records, start_paced, write_recipe

pytestmark = pytest.mark.parallel

KILLS = 50 if os.environ.get("PACED_FULL_RESUME") == "1" else 5
SAVE_S = 0.02  # a write takes longer than this
MOST_DRAWS = 12  # of a moment, until one is met


@dataclass(frozen=True)
class Kill:
    """`victim`: a rank, or None for all of them at once."""

    number: int
    layout: str
    victim: int | None
    in_a_write: bool

    def __str__(self) -> str:
        who = "all" if self.victim is None else f"rank {self.victim}"
        return f"{self.number}: {self.layout}, {who}, {'in a write' if self.in_a_write else 'any time'}"


def kills() -> list[Kill]:
    """Every layout in turn; two of five within a write; of two ranks all, the first, or the other."""
    rng, layouts = random.Random(9), list(LAYOUTS)
    return [
        Kill(
            number,
            layout := layouts[number % len(layouts)],
            None if layout == "TP1" else rng.choice((None, 0, 1)),
            in_a_write=number % 5 in (1, 3),
        )
        for number in range(KILLS)
    ]


def phase_of(run: Path) -> str:
    """Where a run was that has been killed, by what it has left."""
    stage = run / "stage-1"
    if in_a_save(run):
        return "checkpoint write"
    if (run / "report.html").exists():
        return "done"
    if (stage / "hf").exists():
        final = stage / f"evaluation/step-{TRAIN_ITERS:07d}/test-sampled.jsonl"
        whole = lines(final) == TEST_PROBLEMS * EVALUATION_ATTEMPTS
        return "report" if whole else "evaluation after training"
    if any(stage.glob("snapshot-*")):
        return "evaluation in training"
    return "export" if steps_taken(run) == TRAIN_ITERS else "training step"


@pytest.fixture(scope="module")
def histogram(forkery: Forkery, pytestconfig: pytest.Config) -> Iterator[Counter[str]]:
    """Phases of the kills; printed at the end, with what all the forked processes took."""
    phases: Counter[str] = Counter()
    yield phases
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nkilled in:")
        for phase, count in phases.most_common():
            print(f"  {phase:26} {'#' * count} {count}")
        print(f"{forkery.cpu_s():.0f} s of a core in {forkery.started} processes")


def killed(forkery: Forkery, folder: Path, kill: Kill, answered: Path, seconds: float) -> tuple[Path, str]:
    """A run that was killed as drawn: its recipe, and the phase. A moment that was missed is drawn again."""
    rng = random.Random(kill.number)
    for _ in range(MOST_DRAWS):
        shutil.rmtree(folder, ignore_errors=True)
        recipe = recipe_at(folder, kill.layout, answered)
        run = folder / "run"
        job = forkery.start(["run", recipe], world_size(kill.layout))
        assert wait_for(job, lambda run: steps_taken(run) > 0, run), job.said()
        if kill.in_a_write:
            wait_for(job, partial(in_a_save, after=rng.randrange(1, TRAIN_ITERS - 1)), run)
        time.sleep(rng.random() * (SAVE_S if kill.in_a_write else seconds))
        if kill.victim is None:
            job.kill()
        else:
            job.ranks[kill.victim].send(signal.SIGKILL)
            time.sleep(0.3)  # what the others do without it, until their launcher ends them
            job.kill()
        job.wait()
        phase = phase_of(run)
        if phase != "done" and (phase == "checkpoint write" or not kill.in_a_write):
            return recipe, phase
        seconds *= 0.8  # this machine was slower when the whole run was timed
    raise AssertionError(f"{kill}: never met in {MOST_DRAWS} draws")


def seconds_after_step_1(run: Path) -> float:
    """From the first step to the report, by the files' times."""
    began = (run / "config.yaml").stat().st_mtime
    first = records(run / "stage-1/metrics.jsonl")[0]["step_time"]
    return max((run / "report.html").stat().st_mtime - began - first, 1.0)


@pytest.mark.parametrize("kill", kills(), ids=str)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    forkery, never_interrupted, histogram, tmp_path, kill
):
    whole = never_interrupted(kill.layout)
    recipe, phase = killed(
        forkery, tmp_path / "killed", kill, never_interrupted("TP1"), seconds_after_step_1(whole)
    )
    histogram[phase] += 1
    forkery.run(["run", recipe], world_size(kill.layout))
    assert_same_run(recipe.parent / "run", whole)


def test_a_fifth_of_the_kills_were_inside_a_checkpoint_write(histogram):
    """After those above; alone it has nothing to say."""
    assert histogram["checkpoint write"] >= histogram.total() / 5


def test_killed_in_rollouts_no_attempt_is_lost_or_there_twice(forkery, never_interrupted, tmp_path):
    recipe = recipe_at(tmp_path, "TP1")
    run = recipe.parent / "run"
    job = forkery.start(["run", recipe])
    assert wait_for(job, in_rollouts, run)
    job.kill()
    assert job.wait() == [-signal.SIGKILL]
    forkery.run(["run", recipe])
    attempts = keys(run / "stage-1/attempts.jsonl")
    assert len(attempts) == len(set(attempts)) == TRAIN_PROBLEMS * ATTEMPTS
    assert_same_run(run, never_interrupted("TP1"))


def interrupt_when(recipe: Path, reached: Callable[[Path], bool], number: signal.Signals) -> tuple[int, str]:
    """Start `paced run`, signal it as soon as the run's folder shows the moment; (exit code, stderr)."""
    process = start_paced("run", recipe)
    deadline = time.monotonic() + 120
    try:
        while not reached(recipe.parent / "run"):
            assert process.poll() is None, f"ended before {reached.__name__}: {process.communicate()}"
            assert time.monotonic() < deadline, f"{reached.__name__} was not reached"
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors


def of_this_run(recipe: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and str(recipe) in process.info["cmdline"]
    ]


def test_the_launcher_killed_leaves_no_process_behind_and_one_that_is_asked_to_stop_ends_with_75(
    forkery, never_interrupted, tmp_path
):
    recipe = recipe_at(tmp_path, "TP2", never_interrupted("TP1"))
    run = recipe.parent / "run"
    interrupt_when(recipe, in_training, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while of_this_run(recipe):
        assert time.monotonic() < deadline, of_this_run(recipe)
        time.sleep(0.1)
    before = steps_taken(run)
    code, errors = interrupt_when(recipe, lambda run: steps_taken(run) > before, signal.SIGTERM)
    assert code == 75 and not of_this_run(recipe)
    assert errors.splitlines()[-1].startswith("paced: stopped by SIGTERM: stage 1: step "), errors
    forkery.run(["run", recipe], 2)
    assert_same_run(run, never_interrupted("TP2"))


def test_ctrl_c_ends_a_run_over_two_processes_with_one_line_and_a_second_start_goes_on(forkery, tmp_path):
    recipe = write_recipe(tmp_path, **SECTIONS, parallel=LAYOUTS["TP2"])
    code, errors = interrupt_when(recipe, in_rollouts, signal.SIGINT)
    assert code == 130
    assert errors.strip().splitlines() == ["paced: interrupted; the same command goes on from here"]
    assert not of_this_run(recipe)
    made = lines(recipe.parent / "run/stage-1/attempts.jsonl")
    forkery.run(["rollout", recipe], 2)
    attempts = keys(recipe.parent / "run/stage-1/attempts.jsonl")
    assert len(attempts) == len(set(attempts)) == TRAIN_PROBLEMS * ATTEMPTS
    assert f"{made}/{TRAIN_PROBLEMS * ATTEMPTS} attempts" in forkery.jobs[-1].said()
