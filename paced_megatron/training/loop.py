"""A stage's training: from the newest checkpoint to the last step, with metrics, checkpoints and evaluations
on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from paced_megatron.errors import UserError
from paced_megatron.models.gpt import HiddenStatesModel
from paced_megatron.progress import say, track, warn
from paced_megatron.run_folder import StageFolder
from paced_megatron.runtime.files import cannot_write
from paced_megatron.runtime.signals import Stopped, as_number
from paced_megatron.training.budget import EMPTY, Meter, without_texts, write_ended
from paced_megatron.training.checkpoints import (
    InForce,
    latest_iteration,
    load_checkpoint,
    save_checkpoint,
)
from paced_megatron.training.memory_told import step_told
from paced_megatron.training.metrics import StepMetrics, append_metrics, forget_steps_after, step_metrics
from paced_megatron.training.room import check_room
from paced_megatron.training.source import Batch, Source
from paced_megatron.training.step import StepSums
from paced_megatron.training.trainer import Trainer
from paced_megatron.training.writers import Writer, scalars

OnEvaluation = Callable[[int, list[HiddenStatesModel]], None]

NOTHING = StepSums(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # of a batch without texts


def train_stage(
    trainer: Trainer,
    folder: StageFolder,
    source: Source,
    *,
    patience: int,
    evaluate_every: int,
    on_evaluation: OnEvaluation,
    console: Console,
    writers: Sequence[Writer] = (),
) -> None:
    """Take optimizer steps until the budget of `trainer.meter` is spent. A collective over all ranks.

    Goes on from the newest checkpoint in `folder`, and leaves one of the last step there, and training.json.
    A step whose batch is empty counts, and moves neither weights nor learning rate.

    Args:
        patience: so many empty steps in a row end the stage too, with a warning; not where the budget is in
            steps, of which they spend one each.
        source: asked for each step's batch, just before it.
        on_evaluation: called on every rank with (steps done, the student's chunks) every
            `evaluate_every` steps before the last, when their checkpoint is written; 0: never.
        writers: get each step's numbers too, on rank 0.

    Raises:
        UserError: a step was not finite (see `Trainer.step`), or the disk has no room for a checkpoint; and
            on a rank without memory for a step, alone (runtime/out_of_memory.py).
        Stopped: a rank was asked to stop; the steps taken are saved.
    """
    lead, training, meter = trainer.world.lead, trainer.training, trainer.meter
    done = lead.agree(latest_iteration(folder.checkpoints))
    in_force = InForce.of(folder)
    if done:
        told = load_checkpoint(folder.checkpoints, done, trainer, in_force)
        if told and trainer.world.is_lead:
            say(console, f"stage {folder.number}: {told}")
        if _evaluation_is_due(done, meter.why_ended(patience), evaluate_every):
            on_evaluation(done, trainer.student.chunks)  # the run may have been killed during it
    lead.alone(lambda: check_room(folder.checkpoints, trainer), "looking for room for a checkpoint")
    if trainer.world.is_lead:
        forget_steps_after(folder.metrics, done)
        folder.training.unlink(missing_ok=True)  # where the checkpoint that it told of was damaged
    title = f"stage {folder.number}: training"
    taken = saved = done
    budget, ended = meter.budget, meter.why_ended(patience)
    with track(title, budget.amount, budget.unit, console=console, done=meter.amount) as bar:
        try:
            while not ended:
                step, before = taken + 1, meter.amount
                batch = source.batch(step, trainer)
                with step_told(folder.number, step, saved, training, batch.examples):
                    metrics, asked = _timed_step(trainer, batch, folder.number, step)
                taken, ended = step, meter.why_ended(patience)
                if trainer.world.is_lead:
                    append_metrics(folder.metrics, metrics)
                    for write in writers:
                        write(scalars(metrics), step)
                facts = {} if budget.steps is not None else {"step": step}
                facts |= {"loss": metrics.loss, "grad_norm": metrics.grad_norm, **metrics.shown}
                bar.advance(meter.amount - before, **facts)
                due = _evaluation_is_due(step, ended, evaluate_every)
                if due or step % training.save_interval == 0 or ended:
                    _save(folder, step, trainer, in_force)
                    saved = step
                if asked and not ended:
                    raise Stopped(asked, "")
                if due:
                    on_evaluation(step, trainer.student.chunks)
                if saved == step and not ended:  # before the next steps, which a full disk would lose
                    lead.alone(lambda: check_room(folder.checkpoints, trainer), "looking for room")
        except Stopped as stopped:  # raised on all ranks alike, and never within a step
            if saved < taken:
                _save(folder, taken, trainer, in_force)
            known = f"stage {folder.number}: {meter.at(taken)} is saved"
            raise Stopped(stopped.asked, known) from None
    lead.alone(lambda: tell_ended(folder, meter, ended, console), "noting the last step")


def tell_ended(folder: StageFolder, meter: Meter, why: str | None, console: Console) -> None:
    """Write training.json of a stage whose last checkpoint is there, and say so where its budget was not
    spent. Rank 0 only."""
    assert why is not None
    write_ended(folder, meter.spent, why)
    if why == EMPTY:
        warn(console, f"warning: stage {folder.number}: {without_texts(meter.spent, meter.budget)}")


def _save(folder: StageFolder, step: int, trainer: Trainer, in_force: InForce) -> None:
    """A checkpoint. Raises UserError, on all ranks, where the disk is full; those before it are kept."""
    try:
        save_checkpoint(folder.checkpoints, step, trainer, in_force)
    except OSError as error:
        if (told := cannot_write(error, folder.checkpoints)) is None:
            raise
        kept = latest_iteration(folder.checkpoints)
        raise UserError(f"{told}, from step {kept}") from error


def _evaluation_is_due(step: int, ended: str | None, every: int) -> bool:
    """Whether `step` is one to evaluate at; the last one is evaluated from the exported folder."""
    return every > 0 and step % every == 0 and not ended


def _timed_step(trainer: Trainer, batch: Batch, stage: int, step: int) -> tuple[StepMetrics, str | None]:
    """A step's numbers, its seconds by rank 0's clock, and the name of the signal by which a rank was asked
    to stop: the same on all ranks, so that all of them end at the same step."""
    started = time.perf_counter()
    sums, grad_norm, lr = _update(trainer, batch)
    seconds = time.perf_counter() - started if trainer.world.is_lead else 0.0  # the largest is taken
    heard = as_number(trainer.world.lead.asked())
    timing_s, (asked, step_time) = trainer.timers.seconds(trainer.student.device, heard, seconds)
    trainer.count(batch.examples, step_time)
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
