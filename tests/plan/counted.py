"""Counts the bytes of live tensors in a real step: what lasts, and what each turn adds at its peak."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paced_megatron.config import Budget, ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.models.families import ModelShape
from paced_megatron.plan.work import Layout, Work
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.teacher_groups import place_teacher
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training import step as step_module
from paced_megatron.training.examples import Example
from paced_megatron.training.teacher import Teacher
from paced_megatron.training.trainer import Trainer

WORKSPACE_MB = 1


class TurnsWatched(TorchDispatchMode):
    """Sees every tensor that an operation makes, in backward too; keeps the most bytes alive in each turn."""

    def __init__(self, known: Iterable[StorageWeakRef]) -> None:
        super().__init__()
        self.known = set(known)
        self.alive: dict[StorageWeakRef, int] = {}
        self.turn = "student"
        self.peaks: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {key: size for key, size in self.alive.items() if not key.expired()}
        made = storages(x for x in tree_leaves(out) if isinstance(x, torch.Tensor))
        self.alive |= {key: size for key, size in made.items() if key not in self.known}
        self.peaks[self.turn] = max(self.peaks.get(self.turn, 0), sum(self.alive.values()))
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


def storages(tensors: Iterable[torch.Tensor]) -> dict[StorageWeakRef, int]:
    """Bytes of each storage. As long as a weak reference is kept, no later storage is given its address and
    taken for it."""
    return {StorageWeakRef(x.untyped_storage()): x.untyped_storage().nbytes() for x in tensors}


def live_storages() -> dict[StorageWeakRef, int]:
    gc.collect()
    return storages(x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_sparse)


@dataclass(frozen=True)
class Case:
    """A step to count: one layout, texts of one length."""

    layout: Layout
    params_dtype: str
    micro_batch_size: int = 2
    global_batch_size: int = 4
    prompt_tokens: int = 24
    response_tokens: int = 40
    pack_length: int | None = None
    token_weights: str = "none"

    @property
    def parallel(self) -> ParallelConfig:
        """The layout in the configuration's keys."""
        layout = self.layout
        return ParallelConfig(
            tensor_model_parallel_size=layout.tensor_model_parallel_size,
            pipeline_model_parallel_size=layout.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=layout.virtual_pipeline_model_parallel_size,
            data_parallel_size=layout.data_parallel_size,
            sequence_parallel=layout.sequence_parallel,
            use_distributed_optimizer=layout.use_distributed_optimizer,
        )

    def work(self, student: ModelShape, teacher: ModelShape) -> Work:
        """The same, for the plan."""
        return Work(
            student=student,
            teacher=teacher,
            layout=self.layout,
            params_dtype=self.params_dtype,
            micro_batch_size=self.micro_batch_size,
            global_batch_size=self.global_batch_size,
            prompt_tokens=self.prompt_tokens,
            response_tokens=self.response_tokens,
            pack_length=self.pack_length,
            loss_workspace_mb=WORKSPACE_MB,
            device="cpu",
            token_statistics=self.token_weights != "none",
        )


def build_trainer(
    rank: int, world_size: int, student_folder: Path, teacher_folder: Path, case: Case
) -> Trainer:
    """The trainer that a run with this layout has."""
    layout, parallel = case.layout, case.parallel
    groups = parallel_groups(
        parallel.tensor_model_parallel_size,
        1,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size,
    )
    teacher = place_teacher(
        groups, layout.teacher_tensor_model_parallel_size, layout.teacher_pipeline_model_parallel_size
    )
    world = World(rank, world_size, CPU, groups, None, teacher)
    return trainer_in(world, student_folder, teacher_folder, case)


def trainer_in(
    world: World, student_folder: Path, teacher_folder: Path, case: Case, budget: Budget | None = None
) -> Trainer:
    """The trainer that a run in this world has."""
    layout = case.layout
    training = TrainingConfig(
        micro_batch_size=case.micro_batch_size,
        global_batch_size=case.global_batch_size,
        params_dtype=case.params_dtype,
        loss_workspace_mb=WORKSPACE_MB,
        pack_length=case.pack_length,
        recompute_granularity=layout.recompute_granularity,
        recompute_num_layers=layout.recompute_num_layers,
        token_weights=case.token_weights,
        token_weights_kept=1.0,  # the plan's loss is over all tokens
    )
    return Trainer.from_folders(
        world,
        StageConfig(train_iters=3),
        training,
        case.parallel,
        budget=budget,
        student_folder=student_folder,
        teacher_folder=teacher_folder,
    )


def count_step(
    rank: int, world_size: int, student_folder: Path, teacher_folder: Path, case: Case
) -> tuple[int, dict[str, float]]:
    """This rank's pipeline stage, and part -> bytes: what lasts, under the names of `plan/memory.py`, and all
    of it together; and what each turn of the second step adds at its peak."""
    before = live_storages()
    with megatron_on_cpu():
        trainer = build_trainer(rank, world_size, student_folder, teacher_folder, case)
        return trainer.student.groups.pp.rank(), count_parts(trainer, examples(case), before)


def count_parts(
    trainer: Trainer, batch: list[Example], before: Collection[StorageWeakRef]
) -> dict[str, float]:
    """`before`: the storages that were there before the trainer was made."""
    trainer.step(batch)
    parts = _lasting(trainer)
    live = live_storages()
    parts["all that lasts"] = sum(size for key, size in live.items() if key not in before)
    watch = TurnsWatched(live)
    optimizer_step = trainer.optimizer.step
    with (
        mock.patch.object(Teacher, "hidden_states", watch.in_turn("teacher", Teacher.hidden_states)),
        mock.patch.object(trainer.optimizer, "step", watch.in_turn("optimizer", optimizer_step)),
        watch,
    ):
        trainer.step(batch)
    return parts | watch.peaks


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
    teacher = storages([] if trainer.teacher.model is None else trainer.teacher.model.parameters())
    head = [] if trainer.teacher.head is None else [trainer.teacher.head]
    return {
        "weights": sum(weights.values()),
        "gradients": sum(gradients.values()),
        "main weights": sum(size for key, size in main.items() if key not in weights),
        "optimizer state": sum(state.values()),
        "teacher's weights": sum(teacher.values()),
        "teacher's head again": sum(size for key, size in storages(head).items() if key not in teacher),
    }


def examples(case: Case) -> list[Example]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 250, (count,), generator=generator).tolist())

    texts = []
    for number in range(case.global_batch_size):
        prompt = ids(case.prompt_tokens)
        texts.append(Example(f"p{number}", prompt, prompt, ids(case.response_tokens), 1.0))
    return texts


def _addmm_flops(total: Any, left: Any, right: Any, *, out_shape: Any = None, **unused: Any) -> int:
    """Of shapes [n, m], [n, k], [k, m]."""
    return 2 * left[0] * left[1] * right[1]


def count_flops(
    rank: int, world_size: int, student_folder: Path, teacher_folder: Path, case: Case
) -> dict[str, int]:
    """`teacher`, `loss` and `student` (forward, backward and what is recomputed): operations of the matrix
    products of a real step on this rank, as torch counts them."""
    aten = torch.ops.aten
    more = {aten.addmm_: _addmm_flops}  # torch's own table lacks it
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=more)
    counts = dict.fromkeys(("teacher", "loss"), 0)

    def counted(part: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = counter.get_total_flops()
            result = function(*args, **kwargs)
            counts[part] += counter.get_total_flops() - before
            return result

        return wrapped

    with megatron_on_cpu():
        trainer = build_trainer(rank, world_size, student_folder, teacher_folder, case)
        with (
            mock.patch.object(Teacher, "hidden_states", counted("teacher", Teacher.hidden_states)),
            mock.patch.object(
                step_module, "weighted_divergence", counted("loss", step_module.weighted_divergence)
            ),
            counter,
        ):
            trainer.step(examples(case))
    return counts | {"student": counter.get_total_flops() - sum(counts.values())}
