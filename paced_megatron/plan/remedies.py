"""Keys that would make a run fit on the processes that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paced_megatron.plan.search import peak_bytes
from paced_megatron.plan.work import Work

SMALL_WORKSPACE_MB = 256  # the least that the loss takes by itself (divergence/workspace.py)


@dataclass(frozen=True)
class Remedy:
    """`keys`, each as `section.key=value`, together; `peak`: bytes of the fullest rank with them."""

    keys: tuple[str, ...]
    peak: float


Change = tuple[str, Work]  # as on a command line, and what is planned with it


def remedies(work: Work, limit: float, peak: Callable[[Work], float] = peak_bytes) -> list[Remedy]:
    """Each change that brings `peak` below `limit` bytes by itself, what costs least time first; where none
    does, those of them that are needed together; empty where all of them don't do."""
    alone = [
        Remedy((key,), least)
        for change in _CHANGES
        if (found := change(work)) is not None
        for key, changed in [found]
        if (least := peak(changed)) <= limit
    ]
    return alone or _together(work, limit, peak)


def in_words(found: Sequence[Remedy]) -> str:
    """As in "teacher.offload=true (61.2 GB) or training.recompute_granularity=full (40.1 GB)"; empty for
    none."""
    return " or ".join(f"{' '.join(one.keys)} ({one.peak / 2**30:.1f} GB)" for one in found)


def _together(work: Work, limit: float, peak: Callable[[Work], float]) -> list[Remedy]:
    """All of them, without those that it does without; what costs most time is the first to go."""
    needed = list(_CHANGES)
    keys, changed = _with_all(work, needed)
    if not keys or peak(changed) > limit:
        return []
    for change in reversed(_CHANGES):
        fewer = [one for one in needed if one is not change]
        if peak(_with_all(work, fewer)[1]) <= limit:
            needed = fewer
    keys, changed = _with_all(work, needed)
    return [Remedy(keys, peak(changed))]


def _with_all(work: Work, changes: Sequence[Callable[[Work], Change | None]]) -> tuple[tuple[str, ...], Work]:
    keys = []
    for change in changes:
        if (found := change(work)) is not None:
            keys.append(found[0])
            work = found[1]
    return tuple(keys), work


def _smaller_batches(work: Work) -> Change | None:
    engine = work.rollouts
    if engine is None or engine.batch_size < 2:
        return None
    batch_size = max(engine.batch_size // 4, 1)
    return f"rollout.batch_size={batch_size}", replace(work, rollouts=replace(engine, batch_size=batch_size))


def _smaller_workspace(work: Work) -> Change | None:
    if work.loss_workspace_mb is not None and work.loss_workspace_mb <= SMALL_WORKSPACE_MB:
        return None
    return (
        f"training.loss_workspace_mb={SMALL_WORKSPACE_MB}",
        replace(work, loss_workspace_mb=float(SMALL_WORKSPACE_MB)),
    )


def _sleeping_teacher(work: Work) -> Change | None:
    stays = work.teacher_kind in ("model", "initial")  # the others sleep during rollouts only
    leaves_the_step = stays and not work.layout.teacher_own_copies
    leaves_the_engine = work.rollouts is not None and work.rollouts.between_steps is not None
    if work.offload or not (leaves_the_step or leaves_the_engine):
        return None
    return "teacher.offload=true", replace(work, offload=True, teacher_offload=stays)


def _shorter_micro_batches(work: Work) -> Change | None:
    if work.micro_batch_size == 1:
        return None
    return "training.micro_batch_size=1", replace(work, micro_batch_size=1)


def _recomputed(work: Work) -> Change | None:
    if work.layout.recompute_granularity == "full":
        return None
    layout = replace(work.layout, recompute_granularity="full", recompute_num_layers=1)
    return "training.recompute_granularity=full", work.at(layout)


# What costs least time first. Each returns None where the run has it already, or can't.
_CHANGES: tuple[Callable[[Work], Change | None], ...] = (
    _smaller_batches,
    _smaller_workspace,
    _sleeping_teacher,
    _shorter_micro_batches,
    _recomputed,
)
