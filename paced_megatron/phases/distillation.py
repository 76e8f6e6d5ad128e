"""Phases on Megatron-Core: training, and the trained student back in Hugging Face form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from paced_megatron.errors import UserError
from paced_megatron.job import Job
from paced_megatron.models.folder import save_folder
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.models.identity import weights_identity
from paced_megatron.pacing import PassRate, read_pass_rates, read_weights
from paced_megatron.phases.card import describe
from paced_megatron.phases.evaluation import evaluate, is_measured, note_best
from paced_megatron.phases.needs import read_recorded, student_before
from paced_megatron.phases.on_policy import OnPolicyText
from paced_megatron.phases.rollouts import problems_to_respond_to
from paced_megatron.phases.snapshot import save_snapshot
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.rollout.requests import attempt_seed
from paced_megatron.run_folder import StageFolder
from paced_megatron.runtime.files import remove_folder
from paced_megatron.training.budget import Meter, patience_with
from paced_megatron.training.checkpoints import load_model_weights, newest_whole, spent_at
from paced_megatron.training.examples import Example, examples_from_responses
from paced_megatron.training.loop import tell_ended, train_stage
from paced_megatron.training.memory_told import models_told
from paced_megatron.training.order import paced_batches
from paced_megatron.training.source import Source, StoredText
from paced_megatron.training.student import load_chunks
from paced_megatron.training.teacher_cache import GB, TeacherCache
from paced_megatron.training.trainer import DTYPES, Trainer
from paced_megatron.training.ways import ways_of
from paced_megatron.training.writers import Writer, open_writers


def train(job: Job, number: int) -> None:
    """Distil the teacher into the student on weighted text, stored or its own: checkpoints/ and
    metrics.jsonl."""
    folder, stage, config = job.stage_folder(number), job.stage(number), job.config
    if job.world.lead.agree(folder.student.exists()):
        return job.say(f"stage {number}: trained already (exported to {folder.student})")
    done = newest_whole(folder.checkpoints, job.warn)
    meter = Meter(config.budget(number), spent_at(folder.checkpoints, done))
    patience = patience_with(len(job.inputs.train), config.training.global_batch_size)
    if ended := meter.why_ended(patience):
        # A run may have been killed between its last checkpoint and this.
        job.world.lead.alone(lambda: _note_ended(folder, meter, ended, job.console), "noting the last step")
        return job.say(f"stage {number}: trained already ({done} steps)")
    job.stop_if_asked(f"stage {number}: {meter.at(done)} is trained")
    # A run may have been killed between an evaluation and this; no checkpoint is removed before.
    job.world.lead.alone(lambda: note_best(job, number), "looking for the best checkpoint")
    source = TEXTS[stage.text](job, number)
    student_folder, _ = student_before(job, number)
    _say_ways(job, number)
    cache = _teacher_cache(job, number, source)
    with models_told(number):
        trainer = Trainer.from_folders(
            job.world,
            stage,
            config.training,
            config.parallel,
            budget=config.budget(number),
            student_folder=student_folder,
            teacher_folder=job.inputs.teacher_of(stage)[1],
            teacher_offload=config.teacher.offload,
            teacher_cache=cache,
        )

    def evaluate_snapshot(step: int, student: list[HiddenStatesModel]) -> None:
        snapshot = folder.snapshot(step)
        if not job.world.lead.agree(is_measured(job, number, step)):
            save_snapshot(job, student, snapshot)
            with trainer.asleep():
                evaluate(job, number, step, snapshot)
        # Also what a run left that was killed right here.
        job.world.lead.alone(lambda: remove_folder(snapshot), "clearing up after an evaluation")

    train_stage(
        trainer,
        folder,
        source,
        patience=patience,
        evaluate_every=config.evaluation.every if job.inputs.test else 0,
        on_evaluation=evaluate_snapshot,
        console=job.console,
        writers=_writers(job, number, done),
    )
    job.world.lead.alone(lambda: remove_folder(folder.policy), "clearing up after the rollouts")


def _note_ended(folder: StageFolder, meter: Meter, why: str, console: Console) -> None:
    if not folder.training.exists():
        tell_ended(folder, meter, why, console)


def _teacher_cache(job: Job, number: int, source: Source) -> TeacherCache | None:
    """The stage's cache of the teacher's hidden states, its folder made and its size said; None where the
    configuration asks for none, or no text comes twice."""
    if not job.config.teacher.cache:
        return None
    training, stage, examples = job.config.training, job.stage(number), source.stored
    steps = source.steps_within(job.config.budget(number))
    if not examples or (steps is not None and steps * training.global_batch_size <= len(examples)):
        job.say(f"stage {number}: teacher.cache is left out: no text comes a second time")
        return None
    shape, teacher = job.inputs.teacher_of(stage)
    identity = job.world.lead.agree(weights_identity(teacher) if job.world.is_lead else None)
    cache = TeacherCache(
        job.stage_folder(number).teacher,
        identity,
        shape.hidden_size,
        DTYPES[training.params_dtype],
        job.world.device,
    )
    sizes = job.world.lead.alone(lambda: cache.prepare(examples), "making room for the teacher's cache")
    if sizes is not None:
        whole, missing = (size / GB for size in sizes)
        job.say(
            f"stage {number}: the teacher's hidden states take {whole:.3g} GB in {cache.folder}, of which "
            f"{missing:.3g} GB are still to be written"
        )
    return cache


def _say_ways(job: Job, number: int) -> None:
    ways = ways_of(job.config, number, job.world.device)
    for line in ways.lines:
        job.say(f"stage {number}: {line}")
    for warning in ways.warnings:
        job.warn(warning)


def _writers(job: Job, number: int, done: int) -> list[Writer]:
    if not job.world.is_lead:
        return []
    weights = read_weights(job.stage_folder(number).pass_rates)
    left_out = [rate for rate in _pass_rates(job, number) if rate.problem_id not in weights]
    dropped = {
        "k0": sum(rate.correct == 0 for rate in left_out),
        "kK": sum(rate.correct == rate.attempts for rate in left_out),
    }
    return open_writers(job.config.logging, job.folder.path, number, dropped, done)


def _pass_rates(job: Job, number: int) -> list[PassRate]:
    return read_pass_rates(job.stage_folder(number).pass_rates)


def export(job: Job, number: int) -> None:
    """The trained student as a Hugging Face folder, with a model card: hf/."""
    folder = job.stage_folder(number)
    if job.world.lead.agree(folder.student.exists()):
        describe(job, number)  # a run may have been killed before it
        return job.say(f"stage {number}: exported already ({folder.student})")
    done = newest_whole(folder.checkpoints, job.warn)
    ended = job.last_step(number)
    if done < ended:
        raise UserError(f"{folder.checkpoints}: {done} of {ended} steps are trained; run `paced train` first")
    job.stop_if_asked(f"stage {number}: all {done} steps are trained")
    shape, chunks = load_chunks(
        job.inputs.student_folder,
        job.world.groups,
        DTYPES[job.config.training.params_dtype],
        job.config.training,
        job.config.parallel,
    )
    load_model_weights(folder.checkpoints, done, chunks)
    save_folder(chunks, shape, job.world.groups, source=job.inputs.student_folder, out=folder.student)
    job.say(f"stage {number}: student exported to {folder.student}")
    describe(job, number)


def _stored_text(job: Job, number: int) -> Source:
    examples, order = paced_batches(
        job.config.pacing,
        _examples(job, number),
        batch_size=job.config.training.global_batch_size,
        budget=job.config.budget(number),
        seed=attempt_seed(job.config.seed, "order of batches", number),
    )
    return StoredText(examples, order)


def _rollouts(job: Job, number: int) -> Source:
    def teacher_prompt(attempt: Attempt, attempts: Sequence[Attempt]) -> tuple[int, ...]:
        return job.inputs.teacher_prompts[number - 1].of(attempt.problem_id, attempt, attempts)

    return OnPolicyText(job, number, teacher_prompt)


# A stage's `text` -> where its batches come from.
TEXTS: dict[str, Callable[[Job, int], Source]] = {"responses": _stored_text, "rollouts": _rollouts}


def _examples(job: Job, number: int) -> list[Example]:
    """The stage's examples, the same on every rank: files are read where all ranks see them."""
    folder = job.stage_folder(number)
    weights = read_weights(folder.pass_rates)
    responses = read_recorded(folder.responses, "respond")
    if {response.problem_id for response in responses} != set(problems_to_respond_to(job, number).by_id):
        raise UserError(
            f"{folder.responses}: not all of the teacher's responses are there; run `paced respond` first"
        )
    rates = {rate.problem_id: rate.value for rate in _pass_rates(job, number)}
    examples = examples_from_responses(
        responses, job.inputs.train.prompts, weights, rates, job.inputs.teacher_prompts[number - 1].of
    )
    if not examples:
        raise UserError(
            f"{folder.responses}: all {len(responses)} responses of the teacher are truncated; raise "
            "rollout.max_new_tokens"
        )
    return examples
