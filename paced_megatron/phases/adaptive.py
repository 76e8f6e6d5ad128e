"""Which attempts a stage's opening measurement consists of, as far as the attempts that were made tell."""

from __future__ import annotations

from collections.abc import Iterable

from paced_megatron.job import Job
from paced_megatron.pacing import Plan, attempt_rounds
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.rollout.engine import Key
from paced_megatron.rollout.requests import attempt_seed


def planned_rounds(job: Job, number: int, attempts: Iterable[Attempt]) -> list[list[Key]]:
    """Rounds of (problem id, index), the last of which may lack some in `attempts`; where it lacks none, the
    measurement is complete. Without rollout.adaptive there is one round, of K attempts at each problem."""
    rollout, problem_ids = job.config.rollout, job.inputs.train.by_id
    adaptive = rollout.adaptive
    if not adaptive.rounds:
        return [[(problem_id, index) for problem_id in problem_ids for index in range(rollout.attempts)]]
    return attempt_rounds(
        list(problem_ids),
        {attempt.key: attempt.outcome is Outcome.CORRECT for attempt in attempts},
        Plan(rollout.attempts, adaptive.rounds, adaptive.first, adaptive.step, adaptive.most),
        attempt_seed(job.config.seed, "adaptive rollouts", number),
    )
