"""Run what is missing of an experiment, every arm and seed in one job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from paced_megatron.claim import check_run_folder, claim_run_folder
from paced_megatron.config import Config
from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import SAMPLED, TEST, read_rows
from paced_megatron.experiments.experiment import Experiment, check_folder, with_recorded
from paced_megatron.experiments.finished import missing_runs
from paced_megatron.experiments.shared import check_shared, link_shared, record_shared
from paced_megatron.inputs import Inputs
from paced_megatron.job import Job, job_engine
from paced_megatron.pacing import read_weights
from paced_megatron.phases import evaluate_before, respond, roll_out, weigh
from paced_megatron.progress import bars_only, duration, say
from paced_megatron.run import run_stages
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.files import write_atomically
from paced_megatron.runtime.run_lock import run_lock
from paced_megatron.runtime.world import World
from paced_megatron.training.budget import end_of


def check_experiment(experiment: Experiment, inputs: Inputs) -> None:
    """Every folder that is there, before processes are started. Writes nothing. Raises UserError."""
    check_folder(experiment)
    for seed in experiment.seeds:
        check_run_folder(experiment.folder.shared(seed), experiment.shared_config(seed), inputs)
        for arm in experiment.arms:
            with _named(arm, seed):
                check_run_folder(experiment.folder.arm(arm, seed), experiment.config(arm, seed), inputs)


def run_missing(experiment: Experiment, inputs: Inputs, world: World, console: Console) -> None:
    """Make the runs that are missing. A collective over all ranks; killed and started again it goes on.

    What the arms of a seed share is made first, and every arm weighs its problems, so that an arm with
    nothing to train on is found before any arm is trained.
    """
    todo = [(arm, seed) for arm, seed in world.lead.agree(missing_runs(experiment))]
    with job_engine(experiment.base, inputs, experiment.folder.logs, world, console) as rollouts:

        def job(config: Config) -> Job:
            folder = RunFolder(config.run_dir)
            return Job(config, inputs, folder, world, bars_only(console), rollouts)

        if world.is_lead:
            with run_lock(experiment.run_dir):
                check_folder(experiment)  # again: now it is ours
                write_atomically(experiment.folder.experiment, with_recorded(experiment).dump())
                _run_missing(experiment, todo, job, console)
        else:
            _run_missing(experiment, todo, job, console)


def _run_missing(
    experiment: Experiment, todo: list[tuple[str, int]], job_of: Callable[[Config], Job], console: Console
) -> None:
    for seed in dict.fromkeys(seed for _, seed in todo):
        say(console, f"seed {seed}: what all arms start from")
        _make_shared(job_of(experiment.shared_config(seed)))
        for arm in (arm for arm, of in todo if of == seed):
            job = job_of(experiment.config(arm, seed))
            with _named(arm, seed), _claimed(job, shared=experiment.folder.shared(seed)):
                weigh(job, 1)
                kept = len(read_weights(job.stage_folder(1).pass_rates))
            say(console, f"    {arm} trains on {kept} of {len(job.inputs.train)} problems")
    began, total = time.monotonic(), len(experiment.runs())
    for done, (arm, seed) in enumerate(todo):
        left = (time.monotonic() - began) / done * (len(todo) - done) if done else None
        hint = "" if left is None else f", about {duration(left)} left"
        say(console, f"run {total - len(todo) + done + 1} of {total}: {arm}, seed {seed}{hint}")
        job = job_of(experiment.config(arm, seed))
        started = time.monotonic()
        with _named(arm, seed), _claimed(job):
            run_stages(job)
        say(console, f"    {_outcome(job)}{duration(time.monotonic() - started)}")


def _make_shared(job: Job) -> None:
    """The attempts, the teacher's responses, and the first measurements of a seed."""
    if job.world.lead.agree(job.folder.shared.exists()):
        job.world.lead.alone(lambda: check_shared(job.folder), "hashes of what the arms share")
        return
    with _claimed(job):
        roll_out(job, 1)
        if job.config.rollout.respond_to == "kept":
            weigh(job, 1)
        respond(job, 1)
        evaluate_before(job, 1)
        job.world.lead.alone(lambda: record_shared(job.folder), "hashes of what the arms share")


@contextmanager
def _claimed(job: Job, shared: RunFolder | None = None) -> Iterator[None]:
    """Hold the run's folder, as `paced run` does, and give it what its seed shares."""
    if not job.world.is_lead:
        yield
        return
    with run_lock(job.folder.path):
        claim_run_folder(job.folder, job.config, job.inputs)
        if shared is not None:
            link_shared(shared, job.folder)
        yield


@contextmanager
def _named(arm: str, seed: int) -> Iterator[None]:
    """A user's mistake that shows in one run says in which; a lack of memory stays one, which ends a rank
    otherwise (runtime/out_of_memory.py)."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"arm {arm}, seed {seed}: {error}") from error


def _outcome(job: Job) -> str:
    if not job.world.is_lead:
        return ""
    rows = {row.key: row for row in read_rows(job.folder.evaluation)}
    end = end_of(job.folder, job.config)
    row = None if end is None else rows.get((*end, TEST, SAMPLED))
    return "" if row is None else f"held-out accuracy {row.accuracy:.1%}, "
