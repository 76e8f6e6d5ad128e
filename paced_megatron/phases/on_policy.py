"""On-policy text: before a step the student, as it is then, attempts the next problems; its attempts give
both the pass rates and the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paced_megatron.config import Budget
from paced_megatron.errors import UserError
from paced_megatron.job import Job
from paced_megatron.pacing import read_pass_rates, stage_weights
from paced_megatron.phases.rollouts import rollout_sampling, sample
from paced_megatron.phases.snapshot import save_snapshot
from paced_megatron.phases.visits import Visits
from paced_megatron.phases.weighing import resolved_pacing
from paced_megatron.problems.outcome import Outcome
from paced_megatron.progress import bars_only
from paced_megatron.rollout.attempts import Attempt, read_attempts, recover_attempts
from paced_megatron.rollout.engine import Key
from paced_megatron.rollout.requests import attempt_seed
from paced_megatron.timings import stopwatch
from paced_megatron.training.batches import batch_order
from paced_megatron.training.examples import (
    Example,
    TeacherPrompt,
    Weight,
    examples_from_attempts,
    tokens_of_problem,
)
from paced_megatron.training.source import Batch
from paced_megatron.training.trainer import Trainer


class OnPolicyText:
    """The source of an on-policy stage's batches (training/source.py).

    Problems are drawn in a seeded order from all of the stage's, whatever was measured before: a hopeless one
    may have come within reach. Those off the frontier are dropped, and nothing takes their place. With
    `rollout_every` N the attempts for N steps are made at once, by the weights before the first of them.

    Everything follows from the configuration, the opening measurement, and the recorded attempts: a run that
    goes on from a checkpoint takes its steps again from what is recorded.
    """

    stored: Sequence[Example] = ()

    def __init__(self, job: Job, number: int, teacher_prompt: TeacherPrompt) -> None:
        self._job, self._number, self._teacher_prompt = job, number, teacher_prompt
        self._stage = job.stage(number)
        self._weight = opening_weight(job, number)
        self._first = 0  # the step before which the attempts at hand were made
        self._attempts: dict[Key, Attempt] = {}
        self._texts: dict[Key, list[Example]] = {}  # of each problem drawn, by its first attempt
        self._visits = Visits(job, number)

    def steps_within(self, budget: Budget) -> int | None:
        """Known of steps alone."""
        return budget.steps

    def batch(self, step: int, trainer: Trainer) -> Batch:
        """The step's texts; before the first of `rollout_every` steps they are made, with the weights that
        `trainer` has. A collective over all ranks.

        Raises:
            UserError: attempts are missing that only earlier weights could make.
        """
        first = step - (step - 1) % self._stage.rollout_every
        drawn = self._drawn(first)
        everything = [group for groups in drawn.values() for group in groups]
        timing_s: dict[str, float] = {}
        if first != self._first:
            keys = [key for group in everything for key in group]
            timing_s = self._roll_out(first, step, keys, trainer)
            recorded = read_attempts(self._job.stage_folder(self._number).rollouts(first))
            self._attempts = {attempt.key: attempt for attempt in recorded}
            self._first = first
            self._visits.come_to(first, self._drawn)
            self._texts = {group[0]: self._texts_of(group) for group in everything}
        kept = [texts for group in drawn[step] if (texts := self._texts[group[0]])]
        examples = [text for texts in kept for text in texts]
        weights = [math.fsum(text.weight for text in texts) for texts in kept]
        if not examples:
            self._job.say(
                f"stage {self._number}, step {step}: none of its {len(drawn[step])} problems has any weight: "
                "the step counts, and nothing moves"
            )
        tokens = math.fsum(self._tokens_of(group) for group in drawn[step])
        if step != first:
            return Batch(examples, weights, tokens=tokens)
        return Batch(examples, weights, self._numbers(everything), timing_s, tokens)

    def _drawn(self, first: int) -> dict[int, list[list[Key]]]:
        """The steps that share their attempts with step `first`: for each of the step's problems the keys of
        its K attempts. A problem drawn again has other attempts."""
        job, attempts = self._job, self._job.config.rollout.attempts
        problems, seen = list(job.inputs.train.by_id), Counter[str]()
        seed = attempt_seed(job.config.seed, "order of rollouts", self._number)
        end = first + self._stage.rollout_every
        if (last := self._job.config.budget(self._number).steps) is not None:
            end = min(end, last + 1)  # of any other budget nobody knows yet with which step it ends
        drawn: dict[int, list[list[Key]]] = {}
        for step in range(first, end):
            order = batch_order(len(problems), job.config.training.global_batch_size, step - 1, seed)
            drawn[step] = []
            for problem in (problems[index] for index in order):
                begin = seen[problem] * attempts
                drawn[step].append([(problem, index) for index in range(begin, begin + attempts)])
                seen[problem] += 1
        return drawn

    def _roll_out(self, first: int, step: int, keys: Sequence[Key], trainer: Trainer) -> dict[str, float]:
        """Make the attempts, unless they are recorded; the seconds that it took."""
        job, number = self._job, self._number
        folder, version = job.stage_folder(number), f"stage-{number} step-{first - 1}"
        path = folder.rollouts(first)
        if job.world.lead.agree(_are_made(path, keys, version) if job.world.is_lead else None):
            return {"sync": 0.0, "rollout": 0.0}
        if step != first:
            raise UserError(
                f"{path}: attempts are missing which the weights before step {first} made, and they are "
                f"gone: put the file back, or move {folder.checkpoints} and {path.parent} away to train the "
                "stage anew"
            )
        trainer.student.settle()
        with stopwatch() as sync:
            save_snapshot(job, trainer.student.chunks, folder.policy)

        def work() -> None:
            sample(
                job,
                job.inputs.train,
                weights=folder.policy,
                version=version,
                path=path,
                sampling=rollout_sampling(job),
                keys=keys,
                phase="rollouts",
                number=number,
                detail=f" before step {first}",
                console=bars_only(job.console),
            )

        with stopwatch() as rollout, trainer.asleep():
            job.world.lead.alone(work, f"rollouts before step {first} of stage {number}")
        return {"sync": sync[0], "rollout": rollout[0]}

    def _texts_of(self, group: Sequence[Key]) -> list[Example]:
        problem = group[0][0]
        before = self._visits.before(group)

        def weight(correct: float, attempts: float) -> float:
            return self._weight(before[0] + correct, before[1] + attempts)

        return examples_from_attempts(
            [self._attempts[key] for key in group],
            self._job.inputs.train.prompts[problem],
            weight,
            self._teacher_prompt,
            train_on=self._stage.train_on,
            leave_one_out=self._stage.leave_one_out,
        )

    def _tokens_of(self, group: Sequence[Key]) -> float:
        return tokens_of_problem([self._attempts[key] for key in group], self._stage.train_on)

    def _numbers(self, groups: Sequence[Sequence[Key]]) -> dict[str, float]:
        """`rollout` of metrics.jsonl (training/metrics.py)."""
        attempts = [self._attempts[key] for group in groups for key in group]
        correct = [sum(self._attempts[key].outcome is Outcome.CORRECT for key in group) for group in groups]
        return {
            "problems": len(groups),
            "frontier_share": sum(
                0 < right < len(group) for right, group in zip(correct, groups, strict=True)
            )
            / len(groups),
            "kept_share": sum(bool(self._texts[group[0]]) for group in groups) / len(groups),
            "pass_rate": sum(correct) / len(attempts),
            "attempts": len(attempts),
            "tokens": sum(len(attempt.token_ids) for attempt in attempts),
            "truncated_share": sum(attempt.outcome is Outcome.TRUNCATED for attempt in attempts)
            / len(attempts),
        }


def opening_weight(job: Job, number: int) -> Weight:
    """What a problem weighs by its counts, with the constant of the stage's opening measurement: one for the
    whole stage, also where later steps measure p again (docs/method.md, 1)."""
    opening = read_pass_rates(job.stage_folder(number).pass_rates)
    return stage_weights(opening, resolved_pacing(job.config)).weight


def _are_made(path: Path, keys: Sequence[Key], version: str) -> bool:
    """Whether the file has all of these attempts, by these weights."""
    recorded = recover_attempts(path)
    return {attempt.key for attempt in recorded} == set(keys) and all(
        attempt.weight_version == version for attempt in recorded
    )
