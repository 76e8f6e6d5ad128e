"""Collect the attempts of a phase: what the file has is kept, the rest is generated, scored and appended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.attempts import Attempt, append_attempts, recover_attempts
from paced_megatron.rollout.engine import Completion, Key, Request, RolloutEngine, Sampling

# (texts, problem ids, finish reasons) -> an outcome for each, in their order
ScoreFn = Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[Outcome]]
Decode = Callable[[Sequence[int]], str]
OnProgress = Callable[[int, int, list[Attempt]], None]  # (done, total, those that are new)


def _no_progress(done: int, total: int, new: list[Attempt]) -> None:
    pass


def collect_attempts(
    engine: RolloutEngine,
    requests: Sequence[Request],
    sampling: Sampling,
    score_fn: ScoreFn,
    decode: Decode,
    path: Path,
    on_progress: OnProgress = _no_progress,
) -> list[Attempt]:
    """Return exactly one attempt per request, in the requests' order; all of them are in the file `path`.

    Units are appended as the engine yields them, so a killed run loses at most the unit it was at. A unit of
    which only a part had been recorded is made again by the engine, and only what was missing is appended.
    `on_progress` is called after each unit, and once at the start with what an earlier run left, if anything.

    Raises UserError where the file, or a completion, was made by other weights than the engine's, and where
    the file holds attempts that were not asked for.
    """
    wanted = {request.key for request in requests}
    if len(wanted) < len(requests):
        raise ValueError("two requests have the same problem id and index")
    done = {attempt.key: attempt for attempt in recover_attempts(path)}
    _check_recorded(done.values(), wanted, engine.weight_version, path)
    if done:
        on_progress(len(done), len(requests), list(done.values()))
    if len(done) < len(requests):
        for unit in engine.generate(requests, sampling, skip=frozenset(done)):
            _check_unit(unit, wanted, engine.weight_version)
            new = _attempts([c for c in unit if c.request.key not in done], score_fn, decode)
            append_attempts(path, new)
            done.update((attempt.key, attempt) for attempt in new)
            on_progress(len(done), len(requests), new)
    missing = [request.key for request in requests if request.key not in done]
    if missing:
        raise RuntimeError(f"the engine left out {len(missing)} requests, the first is {missing[0]}")
    return [done[request.key] for request in requests]


def _attempts(completions: Sequence[Completion], score_fn: ScoreFn, decode: Decode) -> list[Attempt]:
    texts = [decode(completion.token_ids) for completion in completions]
    ids = [completion.request.problem_id for completion in completions]
    outcomes = score_fn(texts, ids, [completion.finish_reason for completion in completions])
    if len(outcomes) != len(completions):
        raise RuntimeError(f"{len(outcomes)} outcomes for {len(completions)} attempts")
    return [
        Attempt(
            problem_id=completion.request.problem_id,
            index=completion.request.index,
            token_ids=completion.token_ids,
            text=text,
            finish_reason=completion.finish_reason,
            outcome=outcome,
            seed=completion.seed,
            weight_version=completion.weight_version,
        )
        for completion, text, outcome in zip(completions, texts, outcomes, strict=True)
    ]


def _check_unit(unit: Sequence[Completion], wanted: set[Key], version: str) -> None:
    keys = [completion.request.key for completion in unit]
    if len(set(keys)) < len(keys) or not wanted >= set(keys):
        raise RuntimeError("the engine returned a completion twice, or one that was not asked for")
    for completion in unit:
        if completion.weight_version != version:
            raise UserError(
                f"attempt {completion.request.index} of problem {completion.request.problem_id} was made by "
                f"weights {completion.weight_version!r}, but the engine has {version!r}: load them again"
            )


def _check_recorded(recorded: Collection[Attempt], wanted: Collection[Key], version: str, path: Path) -> None:
    for attempt in recorded:
        name = f"{path}: attempt {attempt.index} of problem {attempt.problem_id}"
        if attempt.weight_version != version:
            raise UserError(
                f"{name} was made by weights {attempt.weight_version!r}, but the engine has {version!r}: "
                "move the file away to roll out anew"
            )
        if attempt.key not in wanted:
            raise UserError(
                f"{name} is not among the {len(wanted)} asked for: the problems or the number of attempts "
                "have changed; move the file away, or take another run_dir"
            )
