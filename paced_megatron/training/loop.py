"""A stage's training: from the newest checkpoint to the last step, with metrics, checkpoints and evaluations
on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from paced_megatron.errors import UserError
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.progress import say, track
from paced_megatron.run_folder import StageFolder
from paced_megatron.runtime.files import cannot_write
from paced_megatron.runtime.signals import Stopped, asked_by_number
from paced_megatron.training.checkpoints import (
    InForce,
    latest_iteration,
    load_checkpoint,
    save_checkpoint,
)
from paced_megatron.training.metrics import StepMetrics, append_metrics, forget_steps_after, step_metrics
from paced_megatron.training.room import check_room
from paced_megatron.training.source import Batch, Source
from paced_megatron.training.step import StepSums
from paced_megatron.training.trainer import Trainer
from paced_megatron.training.writers import Writer, scalars

OnEvaluation = Callable[[int, list[HiddenStatesModel]], None]

NOTHING = StepSums(0.0, 0.0, 0.0, 0.0, 0.0)  # of a batch without texts


def train_stage(
    trainer: Trainer,
    folder: StageFolder,
    source: Source,
    *,
    train_iters: int,
    evaluate_every: int,
    on_evaluation: OnEvaluation,
    console: Console,
    writers: Sequence[Writer] = (),
) -> None:
    """Take optimizer steps up to `train_iters`. A collective over all ranks.

    Goes on from the newest checkpoint in `folder`, and leaves one of the last step there. A step whose batch
    is empty counts, and moves neither weights nor learning rate.

    Args:
        source: asked for each step's batch, just before it.
        on_evaluation: called on every rank with (steps done, the student's chunks) every
            `evaluate_every` steps before the last, when their checkpoint is written; 0: never.
        writers: get each step's numbers too, on rank 0.

    Raises:
        UserError: a step was not finite (see `Trainer.step`), or the disk has no room for a checkpoint.
        Stopped: a rank was asked to stop; the steps taken are saved.
    """
    lead, training = trainer.world.lead, trainer.training
    done = lead.agree(latest_iteration(folder.checkpoints))
    in_force = InForce.of(folder)
    if done:
        other_layout = load_checkpoint(folder.checkpoints, done, trainer, in_force)
        if other_layout and trainer.world.is_lead:
            say(console, f"stage {folder.number}: {other_layout}")
        if _evaluation_is_due(done, train_iters, evaluate_every):
            on_evaluation(done, trainer.student.chunks)  # the run may have been killed during it
    lead.alone(lambda: check_room(folder.checkpoints, trainer), "looking for room for a checkpoint")
    if trainer.world.is_lead:
        forget_steps_after(folder.metrics, done)
    title = f"stage {folder.number}: training"
    taken = saved = done
    with track(title, total=train_iters, unit="steps", console=console, done=done) as bar:
        try:
            for step in range(done + 1, train_iters + 1):
                batch = source.batch(step, trainer)
                metrics, asked = _timed_step(trainer, batch, folder.number, step)
                taken = step
                if trainer.world.is_lead:
                    append_metrics(folder.metrics, metrics)
                    for write in writers:
                        write(scalars(metrics), step)
                bar.advance(1, loss=metrics.loss, grad_norm=metrics.grad_norm, **metrics.shown)
                due = _evaluation_is_due(step, train_iters, evaluate_every)
                if due or step % training.save_interval == 0 or step == train_iters:
                    _save(folder, step, trainer, in_force)
                    saved = step
                if asked and step < train_iters:
                    raise Stopped(asked, "")
                if due:
                    on_evaluation(step, trainer.student.chunks)
                if saved == step < train_iters:  # before the next steps, which a full disk would lose
                    lead.alone(lambda: check_room(folder.checkpoints, trainer), "looking for room")
        except Stopped as stopped:  # raised on all ranks alike, and never within a step
            if saved < taken:
                _save(folder, taken, trainer, in_force)
            known = f"stage {folder.number}: step {taken} of {train_iters} is saved"
            raise Stopped(stopped.asked, known) from None


def _save(folder: StageFolder, step: int, trainer: Trainer, in_force: InForce) -> None:
    """A checkpoint. Raises UserError, on all ranks, where the disk is full; those before it are kept."""
    try:
        save_checkpoint(folder.checkpoints, step, trainer, in_force)
    except OSError as error:
        if (told := cannot_write(error, folder.checkpoints)) is None:
            raise
        kept = latest_iteration(folder.checkpoints)
        raise UserError(f"{told}, from step {kept}") from error


def _evaluation_is_due(step: int, train_iters: int, every: int) -> bool:
    """Whether `step` is one to evaluate at; the last one is evaluated from the exported folder."""
    return every > 0 and step % every == 0 and step < train_iters


def _timed_step(trainer: Trainer, batch: Batch, stage: int, step: int) -> tuple[StepMetrics, str | None]:
    """A step's numbers, and the name of the signal by which a rank was asked to stop, the same on all."""
    started = time.perf_counter()
    sums, grad_norm, lr = _update(trainer, batch)
    step_time = time.perf_counter() - started
    timing_s, asked = trainer.timers.seconds(trainer.student.device, also=asked_by_number())
    metrics = step_metrics(
        batch.examples,
        sums,
        weights=batch.weights,
        stage=stage,
        step=step,
        grad_norm=grad_norm,
        lr=lr,
        clip_grad=trainer.training.clip_grad,
        step_time=step_time,
        timing_s=timing_s | batch.timing_s,
        rollout=batch.rollout,
    )
    return metrics, signal.Signals(int(asked)).name if asked else None


def _update(trainer: Trainer, batch: Batch) -> tuple[StepSums, float, float]:
    """As `Trainer.step`; of no texts: no step, and the learning rate that waits for the next."""
    if not batch.examples:
        return NOTHING, 0.0, trainer.optimizer.param_groups[0]["lr"]
    return trainer.step(batch.examples, batch.tokens)
