"""SIGTERM and SIGUSR1 at every phase: the unit at hand is finished and saved, the code is 75, and the same
command goes on to the same weights."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from loop.interrupted import (
    TRAIN_ITERS,
    assert_same_run,
    in_a_save,
    in_evaluation,
    in_responses,
    in_rollouts,
    in_training,
    recipe_at,
    steps_taken,
    wait_for,
    world_size,
)
from loop.recipes import QUICKSTART
from paced_megatron.config.io import dump_config, load_config
from paced_megatron.exit_codes import STOPPED
from paced_megatron.training.checkpoints import latest_iteration

pytestmark = pytest.mark.parallel
LINE = re.compile(r"paced: stopped by (SIGTERM|SIGUSR1): stage 1.*; the same command goes on from here")


def stop(
    forkery,
    recipe: Path,
    layout: str,
    moment,
    number: signal.Signals,
    ranks: tuple[int, ...],
    teachers: int = 0,
) -> str:
    """Start, send the signal to these ranks at this moment; the line that rank 0 ends with.

    Args:
        teachers: processes of a teacher on ranks of its own.
    """
    run, students = recipe.parent / "run", world_size(layout)
    job = forkery.start(["run", recipe], students + teachers)
    assert wait_for(job, moment, run), f"ended before {moment.__name__}\n{job.said()}"
    for rank in ranks:
        job.ranks[rank].send(number)
    began = time.monotonic()
    assert job.wait(30) == [STOPPED] * students + [0] * teachers, f"{moment.__name__}\n{job.said()}"
    print(f"{layout}, {moment.__name__}: {time.monotonic() - began:.1f} s")
    assert latest_iteration(run / "stage-1/checkpoints") == steps_taken(run)  # no step is lost
    return job.ranks[0].said()[1].splitlines()[-1]


def test_stopped_in_every_phase_it_says_what_is_saved_and_ends_with_the_same_weights(
    forkery, never_interrupted, tmp_path
):
    recipe = recipe_at(tmp_path, "TP1")
    moments = [
        (in_rollouts, r"attempts: \d+ of 160 attempts are in"),
        (in_responses, r"teacher's responses: \d+ of 40 attempts are in"),
        (in_training, rf"step \d+ of {TRAIN_ITERS} is saved"),
        (in_a_save, rf"step \d+ of {TRAIN_ITERS} is saved"),
        (in_evaluation, ""),
    ]
    for number, (moment, saved) in enumerate(moments):
        which = signal.SIGUSR1 if number % 2 else signal.SIGTERM
        said = stop(forkery, recipe, "TP1", moment, which, (0,))
        assert LINE.fullmatch(said) and which.name in said and re.search(saved, said), said
    forkery.run(["run", recipe])
    assert_same_run(recipe.parent / "run", never_interrupted("TP1"))


def test_in_training_it_stops_after_the_step_at_hand(forkery, never_interrupted, tmp_path):
    """With neither an evaluation nor a save before the 500th step, where it would be heard too."""
    keys = ["evaluation.every=0", "stages.0.train_iters=500", "training.save_interval=500"]
    recipe = recipe_at(tmp_path, "TP1", never_interrupted("TP1"))
    (tmp_path / "run/config.yaml").write_text(dump_config(load_config(recipe, keys)))
    job = forkery.start(["train", recipe, *keys])
    assert wait_for(job, in_training, tmp_path / "run"), job.said()
    job.ranks[0].send(signal.SIGTERM)
    assert job.wait(30) == [STOPPED], job.said()
    assert latest_iteration(tmp_path / "run/stage-1/checkpoints") == steps_taken(tmp_path / "run") < 100


@pytest.mark.parametrize("layout", ["TP2", "DP2"])
def test_a_rank_that_hears_it_alone_stops_all_of_them_at_the_same_step(
    forkery, never_interrupted, tmp_path, layout
):
    recipe = recipe_at(tmp_path, layout, never_interrupted("TP1"))
    said = stop(forkery, recipe, layout, in_training, signal.SIGUSR1, (1,))
    assert LINE.fullmatch(said) and "SIGUSR1" in said, said
    said = stop(forkery, recipe, layout, in_evaluation, signal.SIGTERM, (1,))  # it waits for rank 0 then
    assert LINE.fullmatch(said) and "SIGTERM" in said, said
    forkery.run(["run", recipe], 2)
    assert_same_run(recipe.parent / "run", never_interrupted(layout))


APART = {"path": str(QUICKSTART / "teacher"), "own_ranks": True}


def test_a_teacher_s_rank_that_hears_it_alone_has_the_student_stop_after_the_step_at_hand(
    forkery, never_interrupted, tmp_path
):
    """With neither an evaluation nor a save before the 500th step, where it would be heard too."""
    keys = ["evaluation.every=0", "stages.0.train_iters=500", "training.save_interval=500"]
    recipe = recipe_at(tmp_path, "TP1", never_interrupted("TP1"), teacher=APART)
    (tmp_path / "run/config.yaml").write_text(dump_config(load_config(recipe, keys)))
    job = forkery.start(["train", recipe, *keys], 2)
    assert wait_for(job, in_training, tmp_path / "run"), job.said()
    job.ranks[1].send(signal.SIGUSR1)
    assert job.wait(30) == [STOPPED, 0], job.said()
    said = job.ranks[0].said()[1].splitlines()[-1]
    assert LINE.fullmatch(said) and re.search(r"SIGUSR1: .*step \d+ of 500 is saved", said), said
    assert latest_iteration(tmp_path / "run/stage-1/checkpoints") == steps_taken(tmp_path / "run") < 100


def test_and_in_an_evaluation_after_which_the_run_goes_on_to_the_same_weights(
    forkery, never_interrupted, tmp_path
):
    """The second of the teacher's two ranks hears it, of a student at TP 2."""
    recipe = recipe_at(tmp_path, "TP2", never_interrupted("TP1"), teacher=APART)
    said = stop(forkery, recipe, "TP2", in_evaluation, signal.SIGTERM, (3,), teachers=2)
    assert LINE.fullmatch(said) and "SIGTERM" in said, said
    forkery.run(["run", recipe], 4)
    assert_same_run(recipe.parent / "run", never_interrupted("TP2"))
