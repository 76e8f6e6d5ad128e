"""Collecting attempts while a line shows how far it has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paced_megatron.problems.outcome import Outcome
from paced_megatron.problems.problem import Problem
from paced_megatron.problems.verify import Verifier
from paced_megatron.progress import Progress
from paced_megatron.rollout.attempts import Attempt
from paced_megatron.rollout.collect import collect_attempts
from paced_megatron.rollout.engine import Request, RolloutEngine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def collect_shown(
    engine: RolloutEngine,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    by_id: Mapping[str, Problem],
    verifier: Verifier,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    bar: Progress,
    stop_if_asked: Callable[[int], None],
) -> tuple[list[Attempt], int]:
    """`collect_attempts`, with what is correct and truncated so far, and tokens per second, on the bar.

    Args:
        by_id: the requests' problems; `path`: where attempts are kept; `bar`: it counts attempts, those that
            `path` has already as done.
        stop_if_asked: called with the number of attempts that are on disk, after each unit; it may raise.

    Returns:
        the attempts in the requests' order, and the tokens that were made here.
    """
    correct, truncated, tokens = 0, 0, 0
    kept, began = bar.done, time.perf_counter()  # from here on tokens are made

    def advance(done: int, total: int, new: list[Attempt]) -> None:
        nonlocal correct, truncated, tokens
        correct += sum(attempt.outcome is Outcome.CORRECT for attempt in new)
        truncated += sum(attempt.outcome is Outcome.TRUNCATED for attempt in new)
        if done > kept:  # the first call tells what an earlier start has left
            tokens += sum(len(attempt.token_ids) for attempt in new)
        rate = f"{tokens / (time.perf_counter() - began):.0f}"
        shares = {"correct": f"{correct / max(done, 1):.0%}", "truncated": f"{truncated / max(done, 1):.0%}"}
        bar.advance(done - bar.done, **shares, **{"tokens/s": rate})
        stop_if_asked(done)

    attempts = collect_attempts(
        engine,
        requests,
        sampling,
        lambda texts, ids, reasons: verifier.score_many(texts, [by_id[name] for name in ids], reasons),
        lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        path,
        advance,
    )
    return attempts, tokens
