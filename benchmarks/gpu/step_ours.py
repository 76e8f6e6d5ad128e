"""Our distillation step, as benchmark and profiler call it: `Trainer.step` in a job of one process."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.step_shapes import REAL, Batch, Pair, room, write_models
from paced_megatron.config import ParallelConfig, StageConfig, TeacherConfig, TrainingConfig
from paced_megatron.runtime.world import joined_world
from paced_megatron.training.examples import Example
from paced_megatron.training.trainer import Trainer


class Ours:
    """A `Trainer` on the GPU where there is one. A step is one micro-batch, as its peers take the batch;
    packed, the texts lie in one row. Making its tensors from the texts is in the step, as it is in training.
    """

    optimizer = "AdamW; float32 main weights, gradients and moments"

    def __init__(
        self, folder: Path, dtype: torch.dtype, lr: float, *, packed: bool = False, recompute: bool = False
    ) -> None:
        self.packed, self.job = packed, ExitStack()
        parallel = ParallelConfig()
        world = self.job.enter_context(joined_world(parallel, TeacherConfig(), seed=0))
        self.trainer = Trainer.from_folders(
            world,
            StageConfig(train_iters=1_000_000),
            TrainingConfig(
                lr=lr,
                weight_decay=0.0,
                clip_grad=1.0,
                normalization="tokens",
                params_dtype="bfloat16" if dtype == torch.bfloat16 else "float32",
                recompute_granularity="full" if recompute else None,
            ),
            parallel,
            student_folder=folder / "student",
            teacher_folder=folder / "teacher",
        )
        self.examples: list[Example] = []

    @property
    def made_of(self) -> str:
        """Whose attention, and how Adam goes over the weights: chosen by what is installed."""
        attention = self.trainer.student.chunks[0].decoder.layers[0].self_attention.core_attention
        optimizer = self.trainer.optimizer
        adam = getattr(optimizer, "chained_optimizers", [optimizer])[0].optimizer
        whose, fused = type(adam).__module__.partition(".")[0], adam.param_groups[0].get("fused")
        return f"{type(attention).__name__}; {whose} {type(adam).__name__}{', fused' if fused else ''}"

    def prepare(self, batch: Batch) -> None:
        """Outside of what is timed: the texts, as the trainer's source hands them out."""
        cut = batch.prompt
        self.examples = [
            Example(f"p{number}", tuple(row[:cut]), tuple(row[:cut]), tuple(row[cut:]), 1.0)
            for number, row in enumerate(batch.tokens.tolist())
        ]
        batching = replace(
            self.trainer.batching,
            global_batch_size=batch.size,
            micro_batch_size=1 if self.packed else batch.size,
            pack_length=batch.size * batch.length if self.packed else None,
        )
        self.trainer = replace(self.trainer, batching=batching)

    def step(self) -> float:
        """One optimizer step; the loss before it."""
        sums, _, _ = self.trainer.step(self.examples)
        self.trainer.timers.seconds(self.trainer.student.device)  # as the training loop: events are let go
        return sums.loss

    def close(self) -> None:
        self.job.close()


def make_step(
    pair: Pair = REAL,
    batch: int = 8,
    length: int = 1024,
    device: str = "cuda",
    *,
    dtype: torch.dtype = torch.bfloat16,
    packed: bool = False,
    recompute: bool = False,
) -> Callable[[], None]:
    """One of our steps, for a profiler. The models are random; writing and reading them takes seconds. It is
    the one job of its process, which ends with it.

    Args:
        device: where the weights are drawn; the job itself is on the GPU where torch sees one.
    """
    with tempfile.TemporaryDirectory(dir=room(8 * 2**30)) as folder:
        write_models(pair, Path(folder), dtype, device)
        ours = Ours(Path(folder), dtype, 1e-6, packed=packed, recompute=recompute)
    atexit.register(ours.close)
    ours.prepare(Batch.of(batch, length, pair.student.vocab_size))

    def step() -> None:
        ours.step()

    return step
