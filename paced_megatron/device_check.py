"""What the job's devices mean for this run, said before an engine is started or a model loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from paced_megatron.config import Config
from paced_megatron.errors import UserError
from paced_megatron.inputs import Inputs
from paced_megatron.plan.from_config import Texts, planned_work, planned_works
from paced_megatron.plan.matmuls import matmul_flops
from paced_megatron.plan.parameters import LARGE_FOR_A_CPU, parameters_on_rank
from paced_megatron.plan.room import room_on
from paced_megatron.runtime.gpus import Gpu, gpu_at, too_old_for, why_none
from paced_megatron.runtime.world import World
from paced_megatron.training.teacher import GPU
from paced_megatron.training.ways import ways_of

TRAINS = ("everything", "training")  # rows of TURNS in which layers and loss are Megatron's and ours


def check_devices(
    config: Config,
    inputs: Inputs,
    world: World,
    turns: str,
    skip_memory: bool = False,
    stages: Sequence[int] | None = None,
) -> list[str]:
    """Warnings, the same on every rank. A collective over the student's ranks.

    Args:
        turns: what is to be done: a row of `plan/room.TURNS`, or "nothing" that needs a device to speak of.
        skip_memory: a run that will not fit is only warned of.
        stages: in which; None: in all.

    Raises:
        UserError: on every rank, where the run will not fit into a GPU, or layers or kernels are asked for
            that cannot be had here.
    """
    if turns == "nothing":
        return []
    if turns in TRAINS:
        check_alike(ways_of_job(config, world))
    gpus = gpus_of_job(world)
    if not gpus:
        return [line] if (line := slow_on_cpu(config, inputs)) else []
    warnings = []
    if old := too_old_for(config.training.params_dtype, min(gpu.capability for gpu in gpus)):
        warnings.append(f"the GPU has {old}")
    works = planned_works(config, longest_texts(config, inputs), "cuda")
    verdict = room_on(gpus, works if stages is None else [works[stage - 1] for stage in stages], turns)
    if verdict is None:
        return warnings
    if verdict.is_over and not skip_memory:
        raise UserError(f"{verdict.says}; `--skip-memory-check` tries it all the same")
    return [*warnings, verdict.says]


def ways_of_job(config: Config, world: World) -> list[list[str] | UserError]:
    """By rank the ways of all stages, or why it has none. A collective over the student's ranks."""
    own: list[str] | UserError
    try:  # each stage says its own when it begins
        stages = (ways_of(config, number, world.device) for number in range(1, len(config.stages) + 1))
        own = [line for stage in stages for line in stage.lines]
    except UserError as error:
        own = error
    found: list[list[str] | UserError] = [own] * world.world_size
    dist.all_gather_object(found, own)
    return found


def check_alike(found: Sequence[list[str] | UserError]) -> None:
    """Ranks that share a model's layers or a loss's logits have to go the same way: with another one they cut
    their chunks otherwise, and each would wait in a collective that the other never enters.

    Args:
        found: as `ways_of_job` has it, the same on every rank.

    Raises:
        UserError: a rank has none; or two go different ways.
    """
    for rank, ways in enumerate(found):
        if isinstance(ways, UserError):
            raise UserError(f"rank {rank}: {ways}" if len(found) > 1 else str(ways))
        for first, other in zip(found[0], ways, strict=True):  # type: ignore[arg-type]
            if first != other:
                raise UserError(
                    f"rank 0 would take `{first}` and rank {rank} `{other}`: their machines differ, `paced "
                    "doctor` on each says in what; training.loss_kernels=torch and "
                    "training.transformer_impl=local can be had on all"
                )


def slow_on_cpu(config: Config, inputs: Inputs) -> str:
    """A line for a run of real models without a GPU; empty for one of small ones."""
    count = parameters_on_rank(inputs.student, 1, 1, 0).total
    if count < LARGE_FOR_A_CPU:
        return ""
    work = planned_work(config, longest_texts(config, inputs), "cpu")
    flops = sum(matmul_flops(work).values())
    return (
        f"no GPU is used: {why_none()}. The student has {count / 1e9:.2f} billion parameters, and a step up "
        f"to {flops / 1e12:,.3g} TFLOP of matrix products: slow on a CPU; `paced doctor CONFIG` says what is "
        "in the way, `paced plan CONFIG --gpu NAME` whether it would fit into a GPU"
    )


def longest_texts(config: Config, inputs: Inputs) -> Texts:
    """The longest prompt, the teacher's own too, with the longest answer that may be sampled."""
    prompts = max(len(ids) for ids in inputs.train.prompts.values())
    new_tokens = config.rollout.max_new_tokens
    for of_stage in inputs.teacher_prompts:
        if of_stage.template:
            longest = max(of_stage.longest(name, new_tokens) for name in inputs.train.prompts)
            prompts = max(prompts, longest)
    return Texts(prompts, new_tokens)


def gpus_of_job(world: World) -> list[Gpu]:
    """Of the student's ranks, in order, and then of a teacher's own; empty on the CPU. A collective over the
    student's, to which the others are called."""
    if world.device.type != "cuda":
        return []
    own = gpu_at(world.device)
    if world.teacher is not None and world.teacher.bridge is not None:
        world.teacher.bridge.call(GPU)
        return world.teacher.bridge.gather(own)
    found: list[Gpu] = [own] * world.world_size
    dist.all_gather_object(found, own)
    return found
