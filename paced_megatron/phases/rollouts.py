"""Phases that sample text: the student's attempts and the teacher's responses."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from paced_megatron.inputs import ProblemSet
from paced_megatron.job import Job
from paced_megatron.pacing import read_weights
from paced_megatron.phases.adaptive import planned_rounds
from paced_megatron.phases.needs import student_before
from paced_megatron.progress import track
from paced_megatron.rollout.attempts import Attempt, outcome_counts, outcome_warnings, recover_attempts
from paced_megatron.rollout.engine import Key, Sampling
from paced_megatron.rollout.requests import attempt_requests, attempt_seed, keyed_requests
from paced_megatron.rollout.shown import collect_shown
from paced_megatron.runtime.out_of_memory import told_where
from paced_megatron.timings import Timing, append_timing


def roll_out(job: Job, number: int) -> None:
    """The student that the stage starts from attempts every problem K times (with rollout.adaptive: K times
    on average): attempts.jsonl."""
    weights, version = student_before(job, number)
    path = job.stage_folder(number).attempts

    def work() -> None:
        attempts = sample_in_rounds(job, number, weights=weights, version=version, path=path)
        job.say(f"stage {number}: {_shares(attempts)}")
        for warning in outcome_warnings(attempts):
            job.warn(warning)

    job.world.lead.alone(work, f"attempts of stage {number}")


def sample_in_rounds(job: Job, number: int, *, weights: Path, version: str, path: Path) -> list[Attempt]:
    """The stage's opening attempts; one round of them, unless rollout.adaptive adds more where they tell."""
    rounds = planned_rounds(job, number, recover_attempts(path))
    while True:
        attempts = sample(
            job,
            job.inputs.train,
            weights=weights,
            version=version,
            path=path,
            sampling=rollout_sampling(job),
            keys=[key for one in rounds for key in one],
            phase="attempts",
            number=number,
            detail=f", round {len(rounds)}" if job.config.rollout.adaptive.rounds else "",
        )
        planned = planned_rounds(job, number, attempts)
        if planned == rounds:
            return attempts
        rounds = planned


def respond(job: Job, number: int) -> None:
    """The teacher answers the problems that are kept (or all) once each, as text to train on:
    responses.jsonl. Not in an on-policy stage, which trains on what the student says."""
    folder = job.stage_folder(number)
    if job.stage(number).text == "rollouts":
        return job.say(f"stage {number}: no responses of the teacher: the stage trains on its own rollouts")
    teacher = job.inputs.teacher_folder
    assert teacher is not None, "a rule asks for teacher.path"

    def work() -> None:
        responses = sample(
            job,
            problems_to_respond_to(job, number),
            weights=teacher,
            version="teacher",
            path=folder.responses,
            sampling=rollout_sampling(job),
            per_problem=1,
            phase="responses",
            number=number,
        )
        job.say(f"stage {number}: teacher's responses: {_shares(responses)}; truncated ones are left out")

    job.world.lead.alone(work, f"teacher's responses of stage {number}")


def problems_to_respond_to(job: Job, number: int) -> ProblemSet:
    """The problems that the stage's responses belong to."""
    if job.config.rollout.respond_to == "all":
        return job.inputs.train
    return job.inputs.train.only(read_weights(job.stage_folder(number).pass_rates))


def rollout_sampling(job: Job) -> Sampling:
    rollout = job.config.rollout
    return Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_new_tokens)


PHASE_NAMES = {
    "attempts": "attempts",
    "responses": "teacher's responses",
    "rollouts": "rollouts",
    "evaluation": "evaluation",
    "strata": "strata of the held-out problems",
    "attempts_after": "attempts after training",
}


def sample(
    job: Job,
    problems: ProblemSet,
    *,
    weights: Path,
    version: str,
    path: Path,
    sampling: Sampling,
    per_problem: int = 0,
    keys: Sequence[Key] | None = None,
    phase: str,
    number: int,
    detail: str = "",
    console: Console | None = None,
) -> list[Attempt]:
    """Every attempt at every problem by these weights, scored; those that `path` already has are not made
    again. What it took goes into timings.jsonl.

    Args:
        per_problem: attempts at each problem; or `keys`, (problem id, index) of each attempt.
        phase: a row of PHASE_NAMES; `number`: the stage; `detail`: what else the progress line should say.
        console: where progress is shown; None: on the job's.
    """
    # The file's name within the run goes into the seeds, so that no two phases draw alike.
    name = str(path.relative_to(job.folder.path))
    seed = attempt_seed(job.config.seed, name, 0)
    requests = (
        attempt_requests(problems.prompts, per_problem, seed)
        if keys is None
        else keyed_requests(problems.prompts, keys, seed)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = {attempt.key: attempt for attempt in recover_attempts(path)}
    complete = recorded.keys() == {request.key for request in requests}
    if complete and {attempt.weight_version for attempt in recorded.values()} == {version}:
        return [recorded[request.key] for request in requests]  # no model need be loaded
    started = time.perf_counter()
    what = f"stage {number}: {PHASE_NAMES[phase]}{detail}"

    def stop_if_asked(done: int) -> None:
        job.world.lead.stop_work_if_asked(f"{what}: {done} of {len(requests)} attempts are in {path}")

    longest = max(len(request.prompt_ids) for request in requests)
    stop_if_asked(len(recorded))
    with (
        told_where(
            lambda: (
                f"{what}, prompts of up to {longest} and answers of up to {sampling.max_new_tokens} tokens"
            ),
            f"those that were made are in {path}, and the same command goes on from there; lower "
            "rollout.batch_size or the tokens that may be sampled, or take rollout.engine=sglang",
        ),
        job.engine(weights, version) as engine,
        track(
            what,
            total=len(requests),
            unit="attempts",
            console=console or job.console,
            done=len(recorded),
        ) as bar,
    ):
        attempts, tokens = collect_shown(
            engine,
            requests,
            sampling,
            by_id=problems.by_id,
            verifier=job.verifier,
            tokenizer=job.inputs.tokenizer,
            path=path,
            bar=bar,
            stop_if_asked=stop_if_asked,
        )
    seconds, made = time.perf_counter() - started, len(requests) - len(recorded)
    append_timing(job.folder.timings, Timing(phase, number, name, seconds, tokens, made))
    return attempts


def _shares(attempts: Collection[Attempt]) -> str:
    counts = outcome_counts(attempts)
    return f"{len(attempts)} attempts, " + ", ".join(
        f"{count / len(attempts):.1%} {kind}" for kind, count in counts.items() if count
    )
