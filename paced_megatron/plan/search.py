"""A layout that fits: TP x PP x DP x recomputation, tried one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from paced_megatron.errors import UserError
from paced_megatron.models.families import ModelShape, check_layout
from paced_megatron.plan.memory import memory_by_stage
from paced_megatron.plan.work import Layout, Work

LARGEST_TP = 8  # beyond a node's fast links tensor parallelism does not pay
LARGEST_WORLD = 1024


def peak_bytes(work: Work) -> float:
    """The most that any rank holds at any time."""
    return max(stage.peak for stage in memory_by_stage(work))


def layout_that_fits(work: Work, limit: float) -> Layout | None:
    """The layout to prefer among those that stay within `limit` bytes on every rank: at the given number of
    processes, else at the smallest number of them (doubled until there is one); None: at no number.

    Preferred: nothing recomputed, then few ranks for one model, then TP before PP.
    """
    world = work.layout.world_size
    while world <= LARGEST_WORLD:
        for layout in candidates(work, world):
            if peak_bytes(work.at(layout)) <= limit:
                return layout
        world *= 2
    return None


def teacher_that_fits(work: Work, limit: float) -> Layout | None:
    """The same layout, in which a teacher on ranks of its own is cut into so many parts that each stays
    within `limit` bytes, as few as do; None: there is no such number."""
    layout = work.layout
    tp, pp = layout.teacher_tensor_model_parallel_size, layout.teacher_pipeline_model_parallel_size
    sizes = [
        (wider, longer)
        for wider in range(tp, LARGEST_TP + 1)
        for longer in range(pp, LARGEST_WORLD // wider + 1)
        if (wider, longer) != (tp, pp) and _cut_one(work.teacher, wider, longer)
    ]
    for wider, longer in sorted(sizes, key=lambda size: (size[0] * size[1], size[1])):
        found = replace(
            layout, teacher_tensor_model_parallel_size=wider, teacher_pipeline_model_parallel_size=longer
        )
        if memory_by_stage(work.at(found))[-1].peak <= limit:
            return found
    return None


def candidates(work: Work, world_size: int) -> Iterator[Layout]:
    """Every layout of so many processes that can cut both models and the batch, in the order of preference.
    Sequence parallelism goes with TP, the distributed optimizer with DP; the teacher is laid out alike."""
    sizes = [
        (tp, pp)
        for tp in range(1, min(LARGEST_TP, world_size) + 1)
        for pp in range(1, world_size // tp + 1)
        if world_size % (tp * pp) == 0 and _cuts(work, tp, pp, world_size // (tp * pp))
    ]
    for recompute in (None, "full"):
        for tp, pp in sorted(sizes, key=lambda size: (size[0] * size[1], size[1])):
            data_parallel_size = world_size // (tp * pp)
            yield replace(
                work.layout,
                tensor_model_parallel_size=tp,
                pipeline_model_parallel_size=pp,
                data_parallel_size=data_parallel_size,
                virtual_pipeline_model_parallel_size=None,
                sequence_parallel=tp > 1,
                use_distributed_optimizer=data_parallel_size > 1,
                recompute_granularity=recompute,
                teacher_tensor_model_parallel_size=tp,
                teacher_pipeline_model_parallel_size=pp,
            )


def _cuts(work: Work, tp: int, pp: int, dp: int) -> bool:
    if work.global_batch_size % (work.micro_batch_size * dp):
        return False
    return _cut_one(work.student, tp, pp) and _cut_one(work.teacher, tp, pp)


def _cut_one(shape: ModelShape, tp: int, pp: int) -> bool:
    try:
        check_layout(shape, Path(), tp, pp)
    except UserError:
        return False
    return True
