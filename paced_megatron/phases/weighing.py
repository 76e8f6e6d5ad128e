"""The phase that makes PACED what it is: pass rates become weights."""

from __future__ import annotations

from paced_megatron.errors import UserError
from paced_megatron.job import Job
from paced_megatron.pacing import (
    PacedWeights,
    make_kernel,
    pass_rates,
    permuted,
    problem_weights,
    write_pass_rates,
)
from paced_megatron.phases.needs import read_recorded
from paced_megatron.rollout.requests import attempt_seed


def weigh(job: Job, number: int) -> None:
    """Pass rates and weights of the problems: pass_rates.jsonl."""
    folder = job.stage_folder(number)

    def work() -> None:
        if folder.pass_rates.exists():
            return job.say(f"stage {number}: weights are there already ({folder.pass_rates})")
        attempts = read_recorded(folder.attempts, "rollout")
        missing = len(job.inputs.train) * job.config.rollout.attempts - len(attempts)
        if missing:
            raise UserError(
                f"{folder.attempts}: {missing} attempts are missing; run `paced rollout` to its end first"
            )
        rates = pass_rates(attempts)
        pacing = job.config.pacing
        paced = problem_weights(rates, make_kernel(pacing), keep=pacing.keep)
        if pacing.permute:
            paced = permuted(paced, attempt_seed(job.config.seed, "permuted weights", number))
        write_pass_rates(folder.pass_rates, rates, paced)
        job.say(f"stage {number}: {_in_words(paced, len(rates))}")
        _warn_if_few(job, number, len(paced.weights))

    job.world.lead.alone(work, f"weights of stage {number}")


def _in_words(paced: PacedWeights, total: int) -> str:
    never, always, kept = paced.histogram[0], paced.histogram[-1], len(paced.weights)
    return (
        f"{never} of {total} problems are never solved, {always} always, {total - never - always} lie "
        f"between; trained on: {kept}, which weigh as much as {paced.ess:.1f} of equal weight"
    )


def _warn_if_few(job: Job, number: int, kept: int) -> None:
    batches = kept / job.config.training.global_batch_size
    if batches < 3:
        job.warn(
            f"stage {number} has only {kept} problems to train on, {batches:.1f} batches of "
            f"{job.config.training.global_batch_size}: they will be repeated often; bring more problems, or "
            f"train less (stages.{number - 1}.train_iters)"
        )
