"""A full disk at each kind of file of a run: one line with the remedy, nothing half-written, and it goes on
when there is room. The disk is a small tmpfs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hand_made_runs import write_run
from loop.interrupted import (
    assert_same_run,
    in_rollouts,
    recipe_at,
    steps_taken,
    wait_for,
)
from loop.recipes import QUICKSTART
from paced_megatron.cli import main
from paced_megatron.config import PacingConfig
from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import add_row, measure, read_rows
from paced_megatron.evaluation.forgotten import (
    TaskMeasurement,
    TaskRow,
    read_measurement,
    write_measurement,
)
from paced_megatron.evaluation.strata import read_strata, write_strata
from paced_megatron.exit_codes import USER_ERROR
from paced_megatron.experiments.shared import write_shared
from paced_megatron.models.hf_writer import write_folder
from paced_megatron.pacing import PassRate, make_kernel, problem_weights, read_weights, write_pass_rates
from paced_megatron.problems.outcome import Outcome
from paced_megatron.report import write_report
from paced_megatron.report.model_card import MARKER, write_card
from paced_megatron.rollout.attempts import Attempt, append_attempts, read_attempts
from paced_megatron.run_folder import RunFolder, StageFolder
from paced_megatron.runtime.files import LEFTOVER, cannot_write, read_jsonl
from paced_megatron.timings import Timing, append_timing, read_timings
from paced_megatron.training.budget import Spent, write_ended
from paced_megatron.training.checkpoints import latest_iteration
from paced_megatron.training.examples import Example
from paced_megatron.training.metrics import StepMetrics, append_metrics
from paced_megatron.training.teacher_cache import TeacherCache
from small_disk import remount, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as mounted:
        yield mounted


def fill(disk: Path) -> Path:
    """Leave no byte; the file to remove for room again."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


def attempt(index: int) -> Attempt:
    return Attempt("p", index, (1,) * 500, "x" * 500, "stop", Outcome.CORRECT, 1, "v")


RATES = [PassRate(f"p{number}", 1, 4) for number in range(50)]


def evaluation(path: Path, number: int) -> None:
    row = measure(
        [attempt(0)],
        stage=1,
        step=number,
        problem_set="test",
        decoding="sampled",
        levels={},
        strata={},
        sampling={},
    )
    add_row(path, row)


def metrics(path: Path, number: int) -> None:
    numbers: dict[str, Any] = dict.fromkeys((field.name for field in fields(StepMetrics)), 0.0)
    append_metrics(path, StepMetrics(**numbers | {"step": number}))


def training_ended(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    write_ended(StageFolder(path.parent, 1), Spent(steps=number), "budget spent")


def forgetting(path: Path, number: int) -> None:
    row = TaskRow("t", "acc", 0.5, 0.1, 400, 5)
    scores = {f"t/{document}": {"acc": float(number)} for document in range(400)}
    write_measurement(path, TaskMeasurement("t", 5, None, "w", "1", 0, [row], scores))


def card(path: Path, number: int) -> None:
    write_card(path.parent, f"{MARKER}\n{number}\n" * 100)


def exported(path: Path, number: int) -> None:
    """The exported folder, as `save_folder` writes it on rank 0."""
    weights = load_file(QUICKSTART / "student/model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    write_folder(
        iter(weights.items()),
        shapes=shapes,
        source=QUICKSTART / "student",
        out=path,
        dtype=None,
        replace=True,
    )


def report(path: Path, number: int) -> None:
    """Of a run that changes, so that it is written anew."""
    run = path.parent
    if not run.exists():
        write_run(run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 1\n", f"seed: {number + 1}\n"))
    write_report(run)


def teachers_states(path: Path, number: int) -> None:
    cache = TeacherCache(path, "teacher", 64, torch.float32, torch.device("cpu"))
    path.mkdir(exist_ok=True)
    example = Example("p", (number,), (number,), tuple(range(20)), 1.0, None)
    cache.write([[example]], {0: torch.zeros(20, 64)})


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, what writes the next (or another) piece of it, and what reads it back."""

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], object]


KINDS = [
    Kind("attempts.jsonl", lambda path, n: append_attempts(path, [attempt(n)]), read_attempts),
    Kind(
        "pass_rates.jsonl",
        lambda path, n: write_pass_rates(
            path, RATES[n:], problem_weights(RATES[n:], make_kernel(PacingConfig()))
        ),
        read_weights,
    ),
    Kind("metrics.jsonl", metrics, read_jsonl),
    Kind("timings.jsonl", lambda path, n: append_timing(path, Timing("a", 1, "f", n, 1, 1)), read_timings),
    Kind("strata.jsonl", lambda path, n: write_strata(path, RATES[n:]), read_strata),
    Kind("evaluation.json", evaluation, read_rows),
    Kind("training.json", training_ended, Path.read_text),
    Kind("shared.json", lambda path, n: write_shared(RunFolder(path.parent), {str(n): {}}), Path.read_text),
    Kind("forgetting-t.jsonl", forgetting, read_measurement),
    Kind("README.md", card, Path.read_text),
    Kind("hf", exported, lambda path: sorted(file.name for file in path.iterdir())),
    Kind("run/report.html", report, Path.read_text),
    Kind("teacher", teachers_states, lambda path: sorted(file.read_bytes() for file in path.iterdir())),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_full_disk_is_one_line_with_the_remedy_and_leaves_the_file_as_it_was(
    kind: Kind, disk: Path
) -> None:
    path = disk / kind.name
    kind.write(path, 0)
    filler = fill(disk)
    written = 0
    with pytest.raises(UserError, match=r"the disk is full.*make room") as told:
        for written in range(1, 300):  # what is appended may still fit into the file's last page
            before = kind.read(path)
            kind.write(path, written)
    assert "\n" not in str(told.value) and str(disk) in str(told.value)
    assert kind.read(path) == before
    assert not [file for file in disk.rglob("*") if LEFTOVER.search(file.name)]
    filler.unlink()
    kind.write(path, written)
    if kind.name != "hf":
        assert kind.read(path) != before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_quota_and_read_only_file_systems_have_a_line_too_also_behind_a_library_s_error(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number), "/a/file")
        except OSError:
            raise RuntimeError("a writer of some library") from None
    except RuntimeError as error:
        told = cannot_write(error)
    assert told is not None and str(told).startswith("/a/file: the ") and "start the run again" in str(told)
    assert cannot_write(OSError(errno.EIO, "broken")) is None


def test_a_read_only_folder_is_told_before_anything_is_done(tmp_path: Path, capsys) -> None:
    recipe = recipe_at(tmp_path / "at", "TP1")
    run = tmp_path / "at/run"
    with small_disk(run, "1m"):
        remount(run, "ro")
        assert main(["run", str(recipe)]) == USER_ERROR
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"paced: {run}") and "(Read-only file system); choose another run_dir" in said


@pytest.mark.parallel
def test_a_run_on_a_full_disk_keeps_its_last_checkpoint_and_goes_on_when_there_is_room(
    forkery, never_interrupted, tmp_path: Path
) -> None:
    folder = tmp_path / "at"
    with small_disk(folder, "16m") as disk:
        recipe = recipe_at(folder, "TP1")
        run = disk / "run"
        for moment, kept in ((in_rollouts, 0), (lambda run: steps_taken(run) >= 4, 3)):
            job = forkery.start(["run", recipe])
            assert wait_for(job, moment, run), job.said()
            filler = fill(disk)
            assert job.wait() == [USER_ERROR], job.said()
            said = job.ranks[0].said()[1].splitlines()
            assert "Traceback" not in said and "make room and start the run again" in said[-1], said
            assert latest_iteration(run / "stage-1/checkpoints") >= kept
            filler.unlink()
        forkery.run(["run", recipe])
        assert_same_run(run, never_interrupted("TP1"))


@pytest.mark.parallel
def test_too_little_room_for_a_checkpoint_is_told_before_the_first_step(
    forkery, never_interrupted, tmp_path: Path
) -> None:
    """Here counted from the model, as there is no checkpoint yet."""
    folder = tmp_path / "at"
    with small_disk(folder, "16m") as disk:
        recipe = recipe_at(folder, "TP1", never_interrupted("TP1"))
        filler = fill(disk)
        with filler.open("rb+") as file:
            file.truncate(filler.stat().st_size - 400_000)
        job = forkery.start(["train", recipe])
        assert job.wait() == [USER_ERROR], job.said()
        said = job.ranks[0].said()[1].splitlines()[-1]
        assert "the next checkpoint takes" in said and "make room and start the run again" in said, said
        assert steps_taken(disk / "run") == 0
