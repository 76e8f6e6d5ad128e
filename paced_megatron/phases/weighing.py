"""The phase that makes PACED what it is: pass rates become weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paced_megatron.config import Config, PacingConfig
from paced_megatron.errors import UserError
from paced_megatron.job import Job
from paced_megatron.pacing import (
    PacedWeights,
    PassRate,
    chosen_estimator,
    pass_rates,
    permuted,
    read_weights,
    stage_weights,
    write_pass_rates,
)
from paced_megatron.phases.adaptive import planned_rounds
from paced_megatron.phases.needs import read_recorded
from paced_megatron.rollout.requests import attempt_seed

FEW_BATCHES = 3
FEW_OF_A_STEP = 3
EXHAUSTED = 0.5  # of what the first stage trained on


def weigh(job: Job, number: int) -> None:
    """Pass rates and weights of the problems: pass_rates.jsonl."""
    folder = job.stage_folder(number)

    def work() -> None:
        if folder.pass_rates.exists():
            return job.say(f"stage {number}: weights are there already ({folder.pass_rates})")
        attempts = read_recorded(folder.attempts, "rollout")
        made = {attempt.key for attempt in attempts}
        missing = sum(key not in made for one in planned_rounds(job, number, attempts) for key in one)
        if missing:
            raise UserError(
                f"{folder.attempts}: {missing} attempts are missing; run `paced rollout` to its end first"
            )
        rates = pass_rates(attempts)
        pacing = resolved_pacing(job.config)
        paced = stage_weights(rates, pacing)
        if pacing.permute:
            paced = permuted(paced, attempt_seed(job.config.seed, "permuted weights", number))
        write_pass_rates(folder.pass_rates, rates, paced)
        job.say(f"stage {number}: {in_words(rates, paced, pacing)}")
        batch_size = job.config.training.global_batch_size
        for warning in STAGE_WARNINGS[job.stage(number).text](
            number,
            len(paced.weights),
            len(rates),
            batch_size,
            _kept_first(job, number),
            budget_key=job.config.budget(number).key,
        ):
            job.warn(warning)

    job.world.lead.alone(work, f"weights of stage {number}")


def resolved_pacing(config: Config) -> PacingConfig:
    """`pacing` with what `auto` means where outcomes decide how often a problem is attempted: the posterior,
    also where the numbers of attempts happen to be equal in the end (docs/method.md, 1)."""
    if config.rollout.adaptive.rounds and config.pacing.estimator == "auto":
        return replace(config.pacing, estimator="posterior")
    return config.pacing


def in_words(rates: Sequence[PassRate], paced: PacedWeights, pacing: PacingConfig) -> str:
    """One line: where the problems lie, and what is made of it."""
    total, kept = len(rates), len(paced.weights)
    shares = {
        "mastered": sum(rate.correct == rate.attempts for rate in rates),
        "on the frontier": sum(rate.on_frontier for rate in rates),
        "hopeless": sum(rate.correct == 0 for rate in rates),
    }
    where = ", ".join(f"{count / total:.0%} {name} ({count})" for name, count in shares.items())
    estimator = chosen_estimator(pacing.estimator, [rate.attempts for rate in rates])
    how = f"kernel {pacing.kernel}, {estimator} estimator"
    if pacing.permute:
        how += ", permuted"
    return (
        f"of {total} problems {where}; trained on: {kept} ({how}), which weigh as much as {paced.ess:.1f} of "
        "equal weight"
    )


def frontier_warnings(
    number: int,
    kept: int,
    measured: int,
    batch_size: int,
    kept_first: int | None = None,
    *,
    budget_key: str,
) -> list[str]:
    """What should be known before stage `number` is trained on stored text of `kept` problems.

    Args:
        measured: problems in all.
        kept_first: problems that stage 1 was trained on; None: this is it.
        budget_key: where the stage's budget is set.
    """
    warnings = []
    if kept < FEW_BATCHES * batch_size:
        warnings.append(
            f"stage {number} has only {kept} problems to train on, {kept / batch_size:.1f} batches of "
            f"{batch_size}: they will be repeated often; bring more problems, or train less ({budget_key})"
        )
    if kept_first is not None and kept < EXHAUSTED * kept_first:
        warnings.append(
            f"stage {number} keeps {kept} problems where stage 1 kept {kept_first}: the frontier is nearly "
            "exhausted, and what is left of it will be overfitted; end with the stage before, train less "
            f"({budget_key}), or bring harder problems"
        )
    return warnings


def on_policy_warnings(
    number: int,
    kept: int,
    measured: int,
    batch_size: int,
    kept_first: int | None = None,
    *,
    budget_key: str,
) -> list[str]:
    """As `frontier_warnings`, for a stage that draws from all problems and measures them at each step."""
    of_a_step = batch_size * kept / measured
    if of_a_step >= FEW_OF_A_STEP:
        return []
    return [
        f"stage {number}: {kept} of {measured} problems have weight now, so that of a step's {batch_size} "
        f"about {of_a_step:.1f} will have texts; bring problems nearer to the frontier, or raise "
        "training.global_batch_size"
    ]


# A stage's `text` -> what should be known before it is trained.
STAGE_WARNINGS = {"responses": frontier_warnings, "rollouts": on_policy_warnings}


def _kept_first(job: Job, number: int) -> int | None:
    first = job.stage_folder(1).pass_rates
    return len(read_weights(first)) if number > 1 and first.exists() else None
