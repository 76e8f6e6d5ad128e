"""Counts the bytes of live tensors in a real step: what lasts, and what each turn adds at its peak."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paced_megatron.config import StageConfig, TrainingConfig
from paced_megatron.plan.work import Layout
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.examples import Example
from paced_megatron.training.teacher import Teacher
from paced_megatron.training.trainer import Trainer

WORKSPACE_MB = 1


class TurnsWatched(TorchDispatchMode):
    """Sees every tensor that an operation makes, in backward too; keeps the most bytes alive in each turn."""

    def __init__(self, known: Iterable[int]) -> None:
        super().__init__()
        self.known = set(known)
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.turn = "student"
        self.peaks: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peaks[self.turn] = max(
            self.peaks.get(self.turn, 0), sum(size for _, size in self.alive.values())
        )
        return out

    @contextmanager
    def during(self, turn: str) -> Iterator[None]:
        before, self.turn = self.turn, turn
        yield
        self.turn = before

    def in_turn(self, turn: str, function: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.during(turn):
                return function(*args, **kwargs)

        return watched


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Bytes of each storage, by its address."""
    return {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}


def _live_storages() -> dict[int, int]:
    gc.collect()
    return storages(x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_sparse)


@dataclass(frozen=True)
class Case:
    layout: Layout
    params_dtype: str
    micro_batch_size: int = 2
    global_batch_size: int = 4
    prompt_tokens: int = 24
    response_tokens: int = 40


def count_step(
    rank: int, world_size: int, student_folder: Path, teacher_folder: Path, case: Case
) -> dict[str, float]:
    """Part -> bytes, under the names of `plan/memory.py`; and `teacher`, `student`, `optimizer`: what these
    turns of the second step add at their peaks."""
    training = TrainingConfig(
        micro_batch_size=case.micro_batch_size,
        global_batch_size=case.global_batch_size,
        params_dtype=case.params_dtype,
        loss_workspace_mb=WORKSPACE_MB,
    )
    stage = StageConfig(train_iters=3)
    before = _live_storages()
    with megatron_on_cpu():
        trainer = build_trainer(
            rank, world_size, case.layout, training, stage, student_folder, teacher_folder
        )
        batch = _examples(case)
        trainer.step(batch)
        parts = _lasting(trainer)
        watch = TurnsWatched(_live_storages())
        of_class = Teacher.hidden_states
        optimizer_step = trainer.optimizer.step
        with (
            mock.patch.object(Teacher, "hidden_states", watch.in_turn("teacher", of_class)),
            mock.patch.object(trainer.optimizer, "step", watch.in_turn("optimizer", optimizer_step)),
            watch,
        ):
            trainer.step(batch)
        live = _live_storages()
        parts["all that lasts"] = sum(size for key, size in live.items() if key not in before)
    return parts | watch.peaks


def build_trainer(rank, world_size, layout, training, stage, student_folder, teacher_folder) -> Trainer:
    groups = parallel_groups(layout.tensor_model_parallel_size, 1, layout.pipeline_model_parallel_size)
    world = World(rank, world_size, CPU, groups, None)
    return Trainer.from_folders(
        world, stage, training, student_folder=student_folder, teacher_folder=teacher_folder
    )


def _lasting(trainer: Trainer) -> dict[str, int]:
    weights = storages(x for chunk in trainer.student.chunks for x in chunk.parameters())
    gradients = storages(x.main_grad for chunk in trainer.student.chunks for x in chunk.parameters())
    chained = getattr(trainer.optimizer, "chained_optimizers", [trainer.optimizer])
    inner = [optimizer.optimizer for optimizer in chained]
    main = storages(x for one in inner for group in one.param_groups for x in group["params"])
    state = storages(
        x
        for one in inner
        for entry in one.state.values()
        for x in entry.values()
        if isinstance(x, torch.Tensor) and x.numel() > 1
    )
    teacher = storages(trainer.teacher.model.parameters())
    head = [] if trainer.teacher.head is None else [trainer.teacher.head]
    return {
        "weights": sum(weights.values()),
        "gradients": sum(gradients.values()),
        "main weights": sum(size for key, size in main.items() if key not in weights),
        "optimizer state": sum(state.values()),
        "teacher's weights": sum(teacher.values()),
        "teacher's head again": sum(size for key, size in storages(head).items() if key not in teacher),
    }


def _examples(case: Case) -> list[Example]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 250, (count,), generator=generator).tolist())

    examples = []
    for number in range(case.global_batch_size):
        prompt = ids(case.prompt_tokens)
        examples.append(Example(f"p{number}", prompt, prompt, ids(case.response_tokens), 1.0))
    return examples
