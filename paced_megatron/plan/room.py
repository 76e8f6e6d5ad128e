"""Whether what is planned fits into the GPUs that a job has found, said before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paced_megatron.plan.memory import StageMemory, memory_by_stage
from paced_megatron.plan.remedies import in_words, remedies
from paced_megatron.plan.rollouts import APART_FROM_TRAINING, EVALUATION, OF_ENGINE, RESPONSES, ROLLOUTS
from paced_megatron.plan.search import layout_that_fits, teacher_that_fits
from paced_megatron.plan.table import proposed_in_words
from paced_megatron.plan.work import Work
from paced_megatron.runtime.gpus import Gpu

GB = 2**30
MARGIN = 0.1  # tests/plan: a part is what is counted in a real step to a tenth
LARGEST_PARTS = 4  # that a line names


@dataclass(frozen=True)
class Verdict:
    """`says` is a line; `is_over`: the run will not fit, rather than hardly."""

    is_over: bool
    says: str


# What a verb does of a run -> whether it comes to a turn.
TURNS: Mapping[str, Callable[[str], bool]] = {
    "everything": lambda turn: True,
    "training": lambda turn: turn not in APART_FROM_TRAINING,
    ROLLOUTS: lambda turn: turn == ROLLOUTS,
    RESPONSES: lambda turn: turn == RESPONSES,
    EVALUATION: lambda turn: turn == EVALUATION,
}


@dataclass(frozen=True)
class _OnRank:
    """What a rank takes at most, and has."""

    rank: int
    memory: StageMemory
    turn: str
    peak: float
    room: float

    @property
    def share(self) -> float:
        return self.peak / self.room


def room_on(gpus: Sequence[Gpu], works: Sequence[Work], turns: str) -> Verdict | None:
    """The GPU on which most is missing for the run, or the fullest on which it hardly will fit; None: it
    fits.

    Args:
        gpus: of the job's ranks, in order: the student's, and then a teacher's own.
        works: a step of each of its stages.
        turns: a row of TURNS.
    """
    found = [(one, work) for work in works for one in _on_ranks(gpus, work, turns)]
    if not found:
        return None
    one, work = max(found, key=lambda pair: pair[0].share)
    if one.share <= 1 - MARGIN:
        return None
    gpu = gpus[one.rank]
    says = (
        f"the GPU of rank {one.rank}{_whose(one.memory)} ({gpu.name}) has {gpu.total / GB:.1f} "
        f"GB{in_use(gpu, one.room)}, and by `paced plan` this run takes up to {one.peak / GB:.1f} GB of it, "
        f"in the turn of {one.turn}, with texts of {_texts(work, one.turn)} tokens: {_parts(one)}"
    )
    return Verdict(one.share > 1 + MARGIN, f"{says}; {_what_to_do(work, one, turns, gpu)}")


def _on_ranks(gpus: Sequence[Gpu], work: Work, turns: str) -> Iterator[_OnRank]:
    """Of the ranks that have anything to do in these turns."""
    students = work.layout.world_size
    of_stage = students // work.layout.pipeline_model_parallel_size
    stages = memory_by_stage(work)
    for rank, gpu in enumerate(gpus):
        memory = stages[rank // of_stage] if rank < students else stages[-1]
        taken = {
            turn: memory.in_turn(turn)
            for turn in memory.turns
            if TURNS[turns](turn) and (rank == 0 or turn not in OF_ENGINE)
        }
        if taken:
            turn, peak = max(taken.items(), key=lambda item: item[1])
            room = min(gpu.total, gpu.free + sum(memory.outside.values()))
            yield _OnRank(rank, memory, turn, peak, room)


def _whose(memory: StageMemory) -> str:
    return ", of the teacher alone" if memory.stage is None else ""


def _texts(work: Work, turn: str) -> str:
    """Prompt and answer, at most."""
    sampled = {} if work.rollouts is None else work.rollouts.turns(work.student)
    answer = sampled[turn][1] - work.prompt_tokens if turn in sampled else work.response_tokens
    return f"{work.prompt_tokens} + {answer}"


def _largest(memory: StageMemory, turns: str) -> float:
    return max((memory.in_turn(turn) for turn in memory.turns if TURNS[turns](turn)), default=0.0)


def in_use(gpu: Gpu, room: float) -> str:
    """By another program, where that is worth a word."""
    return f", of which {(gpu.total - gpu.free) / GB:.1f} GB are in use already" if room < gpu.total else ""


def _parts(one: _OnRank) -> str:
    parts = one.memory.parts_in(one.turn)
    largest = sorted(parts.items(), key=lambda item: -item[1])[:LARGEST_PARTS]
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in largest)


def _what_to_do(work: Work, one: _OnRank, turns: str, gpu: Gpu) -> str:
    def peak(changed: Work) -> float:
        return max(_largest(memory, turns) for memory in memory_by_stage(changed))

    limit = (1 - MARGIN) * one.room
    if found := remedies(work, limit, peak):
        return f"with {in_words(found)} it would fit"
    if one.room < gpu.total and peak(work) <= gpu.total:
        return "end what else runs on it, or lower rollout.max_new_tokens"
    if one.memory.stage is None and (layout := teacher_that_fits(work, limit)) is not None:
        return (
            f"with teacher.tensor_model_parallel_size={layout.teacher_tensor_model_parallel_size} "
            f"teacher.pipeline_model_parallel_size={layout.teacher_pipeline_model_parallel_size} and the "
            "GPUs for it, it would fit"
        )
    if (layout := layout_that_fits(work, limit)) is not None:
        return f"it would fit on {layout.world_size} GPUs: {proposed_in_words(layout, work.layout)}"
    return "lower rollout.batch_size and rollout.max_new_tokens, or take smaller models"
