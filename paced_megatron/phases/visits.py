"""What earlier visits to a problem still say of its pass rate in an on-policy stage: `pacing.discount`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paced_megatron.job import Job
from paced_megatron.pacing import DiscountedCounts, read_pass_rates
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import read_attempts
from paced_megatron.rollout.engine import Key

Drawn = Mapping[int, Sequence[Sequence[Key]]]  # step -> for each of its problems the keys of its K attempts


class Visits:
    """The faded counts of a stage's problems, step after step.

    They follow from the opening measurement and the recorded attempts alone: a run that goes on from a
    checkpoint counts them again. Without a discount nothing is read, and nothing counts.
    """

    def __init__(self, job: Job, number: int) -> None:
        self._job, self._number, self._discount = job, number, job.config.pacing.discount
        self._next, self._counts = 0, DiscountedCounts(self._discount)
        self._before: dict[Key, tuple[float, float]] = {}

    def come_to(self, first: int, drawn: Callable[[int], Drawn]) -> None:
        """Count the visits up to those whose attempts were made before step `first`.

        Args:
            drawn: what was drawn for the steps that share their attempts with one.

        Raises:
            UserError: attempts of an earlier step are not there any more.
        """
        if self._discount == 0:
            return
        every = self._job.stage(self._number).rollout_every
        if self._next != first:
            opening = read_pass_rates(self._job.stage_folder(self._number).pass_rates)
            counts = {rate.problem_id: (float(rate.correct), float(rate.attempts)) for rate in opening}
            self._counts = DiscountedCounts(self._discount, counts)
            for earlier in range(1, first, every):
                self._count(earlier, drawn(earlier))
        self._before = self._count(first, drawn(first))
        self._next = first + every

    def before(self, group: Sequence[Key]) -> tuple[float, float]:
        """(correct, attempts) of earlier visits that count beside this group's own attempts."""
        return self._before.get(group[0], (0.0, 0.0))

    def _count(self, first: int, drawn: Drawn) -> dict[Key, tuple[float, float]]:
        """Count a visit for each group; what counted beside it, by its first attempt."""
        path = self._job.stage_folder(self._number).rollouts(first)
        correct = {attempt.key for attempt in read_attempts(path) if attempt.outcome is Outcome.CORRECT}
        before: dict[Key, tuple[float, float]] = {}
        for group in (group for groups in drawn.values() for group in groups):
            problem = group[0][0]
            before[group[0]] = self._counts.faded(problem)
            self._counts.update(problem, sum(key in correct for key in group), len(group))
        return before
