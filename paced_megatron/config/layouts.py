"""Rules about layouts that need no model: rows of `rules.RULES`. What a model's own sizes forbid is in
`models/families.check_layout`."""

from __future__ import annotations

from collections.abc import Callable

from paced_megatron.config import Config

Rule = tuple[str, str, Callable[[Config], str | None]]


def _no_context_parallel(config: Config) -> str | None:
    size = config.parallel.context_parallel_size
    if size == 1:
        return None
    return (
        f"parallel.context_parallel_size={size}: no attention here can share a text; set it to 1, and save "
        "memory with sequence_parallel or training.recompute_granularity"
    )


def _chunks_have_a_pipeline(config: Config) -> str | None:
    parallel = config.parallel
    if parallel.virtual_pipeline_model_parallel_size is None or parallel.pipeline_model_parallel_size > 1:
        return None
    return (
        f"parallel.virtual_pipeline_model_parallel_size={parallel.virtual_pipeline_model_parallel_size} "
        "needs parallel.pipeline_model_parallel_size of 2 or more; set that, or leave it out"
    )


def _sequence_has_ranks(config: Config) -> str | None:
    parallel = config.parallel
    if not parallel.sequence_parallel or parallel.tensor_model_parallel_size > 1:
        return None
    return (
        "parallel.sequence_parallel=true needs parallel.tensor_model_parallel_size of 2 or more: the tokens "
        "are shared among these; set that, or leave it out"
    )


def _overlap_has_shares(config: Config) -> str | None:
    parallel = config.parallel
    if not parallel.overlap_param_gather or parallel.use_distributed_optimizer:
        return None
    return (
        "parallel.overlap_param_gather=true needs parallel.use_distributed_optimizer=true: without it there "
        "is nothing to gather"
    )


def _packed_rows_are_alone(config: Config) -> str | None:
    training = config.training
    if training.pack_length is None or training.micro_batch_size == 1:
        return None
    return (
        f"training.pack_length={training.pack_length} needs training.micro_batch_size=1, not "
        f"{training.micro_batch_size}: a micro-batch is one packed row"
    )


def _together_is_recomputed(config: Config) -> str | None:
    training = config.training
    if training.recompute_num_layers == 1 or training.recompute_granularity == "full":
        return None
    return (
        f"training.recompute_num_layers={training.recompute_num_layers} needs "
        "training.recompute_granularity=full; set that, or leave it out"
    )


def _teachers_fill_the_job(config: Config) -> str | None:
    parallel, teacher = config.parallel, config.teacher
    tp = teacher.tensor_model_parallel_size or parallel.tensor_model_parallel_size
    pp = teacher.pipeline_model_parallel_size or parallel.pipeline_model_parallel_size
    if teacher.own_ranks or parallel.world_size % (tp * pp) == 0:
        return None
    return (
        f"the job's {parallel.world_size} processes are no multiple of what one teacher takes, "
        f"teacher.tensor_model_parallel_size x teacher.pipeline_model_parallel_size = {tp} x {pp}; lower "
        "one, or raise parallel.data_parallel_size"
    )


def _copies_have_ranks(config: Config) -> str | None:
    if config.teacher.own_ranks or config.teacher.data_parallel_size == 1:
        return None
    return (
        f"teacher.data_parallel_size={config.teacher.data_parallel_size} needs teacher.own_ranks=true; on "
        "the student's processes there are as many copies of the teacher as fit"
    )


LAYOUT_RULES: list[Rule] = [
    ("parallel.context_parallel_size", "is 1: no attention here can share a text", _no_context_parallel),
    (
        "parallel.virtual_pipeline_model_parallel_size",
        "needs `pipeline_model_parallel_size` of 2 or more",
        _chunks_have_a_pipeline,
    ),
    (
        "parallel.sequence_parallel",
        "needs `tensor_model_parallel_size` of 2 or more",
        _sequence_has_ranks,
    ),
    ("parallel.overlap_param_gather", "needs `use_distributed_optimizer`", _overlap_has_shares),
    ("training.pack_length", "needs `micro_batch_size: 1`", _packed_rows_are_alone),
    (
        "training.recompute_num_layers",
        "above 1 needs `recompute_granularity: full`",
        _together_is_recomputed,
    ),
    ("teacher.data_parallel_size", "needs `teacher.own_ranks`", _copies_have_ranks),
    (
        "teacher.tensor_model_parallel_size",
        "x `teacher.pipeline_model_parallel_size` divides the job's number of processes",
        _teachers_fill_the_job,
    ),
]
