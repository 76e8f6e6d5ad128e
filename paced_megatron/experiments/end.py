"""The numbers with which one run ends, from its files."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paced_megatron.config import Config
from paced_megatron.errors import UserError
from paced_megatron.evaluation.accuracy import FORGETTING, GREEDY, SAMPLED, TEST, shares_correct
from paced_megatron.evaluation.plan import planned
from paced_megatron.evaluation.strata import STRATA, read_strata
from paced_megatron.experiments.intervals import mean
from paced_megatron.pacing import read_weights
from paced_megatron.rollout.attempts import read_attempts
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.files import read_jsonl
from paced_megatron.timings import read_timings
from paced_megatron.training.budget import end_of, last_step

# PROBLEM_SET_DECODING, and for the test problems by stratum PROBLEM_SET_DECODING_STRATUM.
ACCURACIES = tuple(
    f"{problem_set}_{decoding}{stratum}"
    for problem_set, strata in ((TEST, ("", *(f"_{name}" for name in STRATA))), (FORGETTING, ("",)))
    for decoding in (SAMPLED, GREEDY)
    for stratum in strata
)
# Training's tokens are those of the responses trained on. A rollout is an attempt or a teacher's response;
# what the arms of a seed share is made once and counted in each.
COSTS = (
    "problems_kept",
    "training_steps",
    "training_tokens",
    "training_seconds",
    "rollout_tokens",
    "rollout_seconds",
)
ANEW = "put the file back, or delete the run's folder, and `paced compare` makes it anew"
ROLLOUT_PHASES = ("attempts", "responses", "rollouts")


@dataclass(frozen=True)
class EndOfRun:
    """Attributes:
    numbers: accuracies and costs by name (ACCURACIES, COSTS).
    shares: accuracy's name -> problem id -> the share of its attempts that are correct.
    """

    numbers: dict[str, float]
    shares: dict[str, dict[str, float]]


def end_of_run(run: RunFolder, config: Config, before: bool = False) -> EndOfRun:
    """What a finished run measured last, and what it cost; with `before`, what it measured before training,
    which cost nothing. Raises UserError for a file that is missing or broken."""
    end = (1, 0) if before else end_of(run, config)
    if end is None:
        raise UserError(f"{run.stage(len(config.stages)).training} is missing: {ANEW}")
    stage, step = end
    strata = read_strata(run.strata)
    shares: dict[str, dict[str, float]] = {}
    for problem_set, decoding in planned(config):
        found = shares_correct(
            read_attempts(run.stage(stage).evaluation_attempts(step, problem_set, decoding))
        )
        shares[f"{problem_set}_{decoding}"] = found
        if problem_set == TEST:
            for stratum in STRATA:
                inside = {name: share for name, share in found.items() if strata.get(name) == stratum}
                if inside:
                    shares[f"{problem_set}_{decoding}_{stratum}"] = inside
    numbers = {name: mean(list(found.values())) for name, found in shares.items()}
    return EndOfRun(numbers if before else numbers | _costs(run, config), shares)


def _costs(run: RunFolder, config: Config) -> dict[str, float]:
    steps = []
    for number in range(1, len(config.stages) + 1):
        path = run.stage(number).metrics
        records, last = read_jsonl(path), last_step(run.stage(number), config.budget(number))
        if last is None:
            raise UserError(f"{run.stage(number).training} is missing: {ANEW}")
        if len(records) < last:
            raise UserError(f"{path} has {len(records)} of {last} steps: {ANEW}")
        steps += records
    rollouts = [timing for timing in read_timings(run.timings) if timing.phase in ROLLOUT_PHASES]
    return {
        "problems_kept": len(read_weights(run.stage(1).pass_rates)),
        "training_steps": len(steps),
        "training_tokens": sum(record["tokens"] for record in steps),
        "training_seconds": math.fsum(record["step_time"] for record in steps),
        "rollout_tokens": sum(timing.tokens for timing in rollouts),
        "rollout_seconds": math.fsum(timing.seconds for timing in rollouts),
    }
