"""Whether the models that are yet to be asked fit into the embedded engine's GPU, said before one is loaded.
How long answers will be nobody knows: refused is only what would not even fit with the prompts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch

from paced_megatron.errors import UserError
from paced_megatron.evaluation.task import Task
from paced_megatron.models.families import ModelShape, model_shape, read_config
from paced_megatron.plan.memory import OF_CUDA
from paced_megatron.plan.rollouts import Rollouts, engine_parts
from paced_megatron.plan.room import GB, MARGIN, in_use
from paced_megatron.runtime.gpus import Gpu, gpu_at

ELSEWHERE = "--launch or --url asks an SGLang server, which may have several GPUs"


@dataclass(frozen=True)
class _Asked:
    """The batch of a task that takes most: so many texts, `prompt_tokens` of the longest prompt."""

    task: Task
    shape: ModelShape
    element: int
    texts: int
    prompt_tokens: int

    def parts(self, new_tokens: int) -> dict[str, float]:
        """Part -> bytes, with so many tokens of each answer."""
        length = self.prompt_tokens + new_tokens
        of_engine = engine_parts(Rollouts(self.texts, length, self.element), self.shape, length)
        return {"CUDA, an allowance": float(OF_CUDA), **of_engine}


def check_memory(tasks: Iterable[Task], batch_size: int, skip: bool) -> list[str]:
    """Warnings; none on the CPU, nor of a model of which the need isn't known.

    Args:
        tasks: that have attempts still to be made.
        batch_size: of the embedded engine.
        skip: what will not fit is only warned of.

    Raises:
        UserError: the prompts alone are more than a tenth too much for the GPU.
    """
    missing = iter(tasks)
    first = next(missing, None)
    if first is None or (gpu := gpu_of_engine()) is None:  # in this order: nothing to ask needs no GPU
        return []
    room = min(gpu.total, gpu.free + OF_CUDA)
    warnings = []
    for asked in _largest(chain([first], missing), batch_size):
        new_tokens = asked.task.protocol.sampling.max_new_tokens
        least, most = (sum(asked.parts(tokens).values()) for tokens in (1, new_tokens))
        if most <= (1 - MARGIN) * room:
            continue
        is_over = least > (1 + MARGIN) * room
        line = _line(asked, gpu, room, 1 if is_over else new_tokens)
        if is_over and not skip:
            raise UserError(f"{line}; `--skip-memory-check` tries it all the same")
        warnings.append(line)
    return warnings


def gpu_of_engine() -> Gpu | None:
    """The one that the embedded engine takes; None: the CPU. It makes CUDA's context there."""
    return gpu_at(torch.cuda.current_device()) if torch.cuda.is_available() else None


def _largest(tasks: Iterable[Task], batch_size: int) -> Iterator[_Asked]:
    """Of each model the task that takes most, of those whose need is known."""
    by_target: dict[str, _Asked] = {}
    for task in tasks:
        if (asked := _asked(task, batch_size)) is None:
            continue
        before = by_target.setdefault(task.target.name, asked)
        new_tokens = task.protocol.sampling.max_new_tokens  # of all tasks the same
        by_target[task.target.name] = max(before, asked, key=lambda one: sum(one.parts(new_tokens).values()))
    yield from by_target.values()


def _asked(task: Task, batch_size: int) -> _Asked | None:
    """None for what only transformers can load, or weights of a type that config.json doesn't name."""
    config = read_config(task.target.folder)
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    if not isinstance(dtype, torch.dtype):
        return None
    try:
        shape = model_shape(task.target.folder)
    except UserError:
        return None
    lengths = [len(request.prompt_ids) for request in task.requests()]
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    largest = max(batches, key=lambda batch: len(batch) * max(batch))
    return _Asked(task, shape, dtype.itemsize, len(largest), max(largest))


def _line(asked: _Asked, gpu: Gpu, room: float, new_tokens: int) -> str:
    parts = asked.parts(new_tokens)
    named = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    return (
        f"{asked.task.target.folder}: the GPU ({gpu.name}) has {gpu.total / GB:.1f} GB{in_use(gpu, room)}, "
        f"and {asked.texts} attempts at a time with prompts of up to {asked.prompt_tokens} and answers of "
        f"{new_tokens} tokens take {sum(parts.values()) / GB:.1f} GB ({named}); {_what_to_do(asked, room)}"
    )


def _what_to_do(asked: _Asked, room: float) -> str:
    """The largest batch that stays a tenth below with the longest answers."""
    new_tokens, limit = asked.task.protocol.sampling.max_new_tokens, (1 - MARGIN) * room
    low, high = 0, asked.texts  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        fits = sum(replace(asked, texts=middle).parts(new_tokens).values()) <= limit
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        return ELSEWHERE
    return f"--batch-size {low} would fit, with answers of {new_tokens} tokens too; or {ELSEWHERE}"
