"""The verdict on an attempt: a wrong score is a wrong weight, so each attempt ends as exactly one Outcome.

What the text of two answers settles is settled here; the rest goes to worker processes (`verifier_pool.py`).
Text of a model is never executed nor evaluated in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from paced_megatron.config import VerifierConfig
from paced_megatron.problems.answers import final_answer
from paced_megatron.problems.math_text import settle
from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verifier_pool import VerifierPool

__all__ = ["VERIFIERS", "Outcome", "Verifier", "score"]

MAX_KNOWN = 100_000  # verdicts that are kept: the attempts at a problem repeat their answers


def judge_exact(answer: str, gold: str) -> Outcome:
    """CORRECT if and only if both are the same text, spaces around it aside."""
    return Outcome.CORRECT if answer.strip() == gold.strip() else Outcome.INCORRECT


# kind -> (the attempt's answer, the problem's answer) -> Outcome, or None where the answers have to be
# compared in value, in a worker. Neither answer is empty.
VERIFIERS: Mapping[str, Callable[[str, str], Outcome | None]] = {
    "exact": judge_exact,
    "math": settle,
}


class Verifier:
    """Scores attempts. Its worker processes start with the first pair of answers that needs them.

    From any thread; one for a job, since starting a worker takes a second. close() it, or leave it to the
    garbage collector and the end of Python.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._pool = VerifierPool(config.workers, config.memory_mib)
        self._known: dict[tuple[str, str], Outcome] = {}

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes. What is scored later starts new ones."""
        self._pool.close()

    @property
    def pids(self) -> list[int]:
        """The worker processes that run now."""
        return self._pool.pids

    def score(self, text: str, problem: Problem, finish_reason: str) -> Outcome:
        """How the attempt `text` at `problem` ended. finish_reason: "stop" or "length" (ran into
        max_new_tokens).

        A truncated attempt is TRUNCATED whatever it says: the student did not finish within its budget. The
        answer is what follows the last verifier.answer_marker, or where no marker is set the content of the
        last box; an attempt without it is UNPARSABLE. Nothing is ever CORRECT against an empty answer.
        """
        return self.score_many([text], [problem], [finish_reason])[0]

    def score_many(
        self, texts: Sequence[str], problems: Sequence[Problem], finish_reasons: Sequence[str]
    ) -> list[Outcome]:
        """score() for each attempt: texts[i] at problems[i]. As many outcomes as attempts, in their order.

        All workers share the batch.
        """
        if not len(texts) == len(problems) == len(finish_reasons):
            counts = f"{len(texts)} texts, {len(problems)} problems, {len(finish_reasons)} finish reasons"
            raise ValueError(f"one of each for every attempt, not {counts}")
        attempts = zip(texts, problems, finish_reasons, strict=True)
        outcomes = self._outcomes([self._settle(*attempt) for attempt in attempts])
        if len(outcomes) != len(texts):
            raise RuntimeError(f"{len(outcomes)} outcomes for {len(texts)} attempts")
        return outcomes

    def judge_many(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """The verdict on each (answer, gold), both as `final_answer` gives them; in their order."""
        compare = VERIFIERS[self._config.kind]
        return self._outcomes([compare(answer, gold) or (answer, gold) for answer, gold in pairs])

    def _settle(self, text: str, problem: Problem, finish_reason: str) -> Outcome | tuple[str, str]:
        """The outcome, or where text does not tell: (answer, gold), to be compared in value."""
        if finish_reason == "length":
            return Outcome.TRUNCATED
        if finish_reason != "stop":
            raise ValueError(
                f"problem {problem.id}: finish reason {finish_reason!r} is neither stop nor length"
            )
        answer = final_answer(text, self._config.answer_marker)
        if answer is None:
            return Outcome.UNPARSABLE
        if not problem.answer.strip():
            return Outcome.INCORRECT
        return VERIFIERS[self._config.kind](answer, problem.answer) or (answer, problem.answer)

    def _outcomes(self, settled: Sequence[Outcome | tuple[str, str]]) -> list[Outcome]:
        """Those that are settled, and of each pair that is not the workers' verdict."""
        open_pairs = list(dict.fromkeys(s for s in settled if not isinstance(s, Outcome)))
        judged = dict(zip(open_pairs, self._judge(open_pairs), strict=True))
        return [s if isinstance(s, Outcome) else judged[s] for s in settled]

    def _judge(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        new = [pair for pair in pairs if pair not in self._known]
        verdicts = dict(zip(new, self._pool.judge(new, self._config.timeout_s), strict=True))
        outcomes = [verdicts[pair] if pair in verdicts else self._known[pair] for pair in pairs]
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        # What ran out of time may have met a busy machine: it is tried again when it comes again.
        self._known.update((p, v) for p, v in verdicts.items() if v is not Outcome.TIMED_OUT)
        return outcomes


def score(text: str, problem: Problem, finish_reason: str, verifier: VerifierConfig) -> Outcome:
    """Verifier.score() once. A worker that it needs takes a second to start: keep a Verifier for more."""
    with Verifier(verifier) as once:
        return once.score(text, problem, finish_reason)
