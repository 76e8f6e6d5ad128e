"""Whether what is planned fits into the GPUs that a job has found, said before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paced_megatron.plan.memory import ROLLOUTS, StageMemory, memory_by_stage
from paced_megatron.plan.remedies import in_words, remedies
from paced_megatron.plan.search import layout_that_fits
from paced_megatron.plan.table import layout_in_words
from paced_megatron.plan.work import Work

GB = 2**30
MARGIN = 0.1  # tests/plan: a part is what is counted in a real step to a tenth
LARGEST_PARTS = 4  # that a line names


@dataclass(frozen=True)
class Gpu:
    """A rank's, before anything is loaded; `total` and `free` in bytes."""

    name: str
    total: float
    free: float
    capability: tuple[int, int] = (9, 0)


@dataclass(frozen=True)
class Verdict:
    """`says` is a line; `is_over`: the run will not fit, rather than hardly."""

    is_over: bool
    says: str


# What a verb does of a run -> whether it comes to a turn.
TURNS: Mapping[str, Callable[[str], bool]] = {
    "everything": lambda turn: True,
    "training": lambda turn: turn != ROLLOUTS,
    "rollouts": lambda turn: turn == ROLLOUTS,
}


def room_on(gpus: Sequence[Gpu], work: Work, turns: str) -> Verdict | None:
    """The first GPU on which the run will not fit, or the fullest on which it hardly will; None: it fits.

    Args:
        gpus: of the student's ranks, in order.
        work: its most demanding step.
        turns: a row of TURNS.
    """
    of_stage = len(gpus) // work.layout.pipeline_model_parallel_size
    stages = memory_by_stage(work)
    by_rank = [stages[rank // of_stage] for rank in range(len(gpus))]
    wanted = [_largest(memory, turns) for memory in by_rank]
    room = [
        min(gpu.total, gpu.free + sum(memory.outside.values()))
        for gpu, memory in zip(gpus, by_rank, strict=True)
    ]
    shares = [0.0 if one is None else one[1] / space for one, space in zip(wanted, room, strict=True)]
    rank = max(range(len(gpus)), key=lambda rank: shares[rank])
    found = wanted[rank]
    if found is None or shares[rank] <= 1 - MARGIN:
        return None
    turn, peak = found
    is_over = shares[rank] > 1 + MARGIN
    gpu = gpus[rank]
    says = (
        f"the GPU of rank {rank} ({gpu.name}) has {gpu.total / GB:.1f} GB{_others(gpu, room[rank])}, and by "
        f"`paced plan` this run takes up to {peak / GB:.1f} GB of it, in the turn of {turn}, with texts of "
        f"{work.prompt_tokens} + {work.response_tokens} tokens: {_parts(by_rank[rank], turn)}"
    )
    return Verdict(is_over, f"{says}; {_what_to_do(work, room[rank], turns, gpu)}")


def _largest(memory: StageMemory, turns: str) -> tuple[str, float] | None:
    taken = {turn: memory.in_turn(turn) for turn in memory.turns if TURNS[turns](turn)}
    return max(taken.items(), key=lambda item: item[1]) if taken else None


def _others(gpu: Gpu, room: float) -> str:
    """Of another program's, where that is worth a word."""
    return f", of which {(gpu.total - gpu.free) / GB:.1f} GB are in use already" if room < gpu.total else ""


def _parts(memory: StageMemory, turn: str) -> str:
    parts = {**memory.outside, **({} if turn == ROLLOUTS else memory.lasting), **memory.turns[turn]}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:LARGEST_PARTS]
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in largest)


def _what_to_do(work: Work, room: float, turns: str, gpu: Gpu) -> str:
    def peak(changed: Work) -> float:
        return max(
            (one[1] for memory in memory_by_stage(changed) if (one := _largest(memory, turns))), default=0.0
        )

    limit = (1 - MARGIN) * room
    if found := remedies(work, limit, peak):
        return f"with {in_words(found)} it would fit"
    if room < gpu.total and peak(work) <= gpu.total:
        return "end what else runs on it, or lower rollout.max_new_tokens"
    if (layout := layout_that_fits(work, limit)) is not None:
        return f"it would fit on {layout.world_size} GPUs: {layout_in_words(layout)}"
    return "lower rollout.batch_size and rollout.max_new_tokens, or take smaller models"
