"""A distillation step over what Megatron-Core itself takes for the same shapes: teacher forward, student
forward and backward with its own cross-entropy, optimizer.

    python benchmarks/step.py                   # 3 minutes; results/step-DATE.csv
    python benchmarks/step.py --quick           # seconds, small: does it run at all

Three variants take turns in the same processes: `bare`, `ours`, and `half`, which is ours with half of the
problems left out. `over_bare` is the median ratio of neighbours in time. Ours compares two heads over the
response and bare one over the whole text, so the loss is told apart: `loss_s` is the seconds of the fused
divergence, forward and backward; bare's is the forward pass of its output layer and cross-entropy, times
three.
`over_bare_without_loss` has both taken off.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from machine import about_this_run, add_rows, busy_seconds
from megatron.core.models.gpt.gpt_model import GPTModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from paced_megatron.config import ParallelConfig, StageConfig, TrainingConfig
from paced_megatron.runtime.cpu import CPU, megatron_on_cpu
from paced_megatron.runtime.launch import free_port
from paced_megatron.runtime.world import World, parallel_groups
from paced_megatron.training.batches import MicroBatch, micro_batches
from paced_megatron.training.examples import Example
from paced_megatron.training.forward import final_hidden_states, run_schedule
from paced_megatron.training.optimizer import make_optimizer, optimizer_config
from paced_megatron.training.student import Student
from paced_megatron.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = {
    "1": ParallelConfig(),
    "TP 2": ParallelConfig(tensor_model_parallel_size=2),
    "TP 2 x DP 2": ParallelConfig(tensor_model_parallel_size=2, data_parallel_size=2),
    "PP 2 x DP 2": ParallelConfig(pipeline_model_parallel_size=2, data_parallel_size=2),
}
VARIANTS = ("bare", "ours", "half")


@dataclass(frozen=True)
class Shapes:
    layers: int = 4
    hidden: int = 384
    vocabulary: int = 16_384
    prompt: int = 64
    response: int = 128
    batch: int = 8
    micro_batch: int = 2


QUICK = Shapes(layers=2, hidden=32, vocabulary=256, prompt=4, response=8)


def make_model(folder: Path, shapes: Shapes, seed: int, wider: int = 1) -> Path:
    torch.manual_seed(seed)
    hidden = shapes.hidden * wider
    config = Qwen3Config(
        vocab_size=shapes.vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=shapes.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def texts(shapes: Shapes) -> list[Example]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(shapes.vocabulary, (count,), generator=generator).tolist())

    prompts = [ids(shapes.prompt) for _ in range(shapes.batch)]
    return [Example(f"p{i}", prompt, prompt, ids(shapes.response), 1.0) for i, prompt in enumerate(prompts)]


class Bare:
    """The yardstick: the same teacher, and a student of its own with Megatron's own loss and optimizer."""

    def __init__(self, trainer: Trainer, folder: Path, parallel: ParallelConfig) -> None:
        self.trainer, self.head_s = trainer, 0.0
        training = trainer.training
        self.student = Student.from_folder(folder, trainer.world.groups, torch.float32, training, parallel)
        for chunk in self.student.chunks:
            chunk._postprocess = types.MethodType(self._timed_postprocess, chunk)  # type: ignore[method-assign]
        self.optimizer = make_optimizer(self.student, optimizer_config(training, parallel, torch.float32))

    def _timed_postprocess(self, chunk: GPTModel, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not chunk.post_process:
            return GPTModel._postprocess(chunk, *args, **kwargs)
        start = time.perf_counter()
        output = GPTModel._postprocess(chunk, *args, **kwargs)
        self.head_s += 3 * (time.perf_counter() - start)
        return output

    def step(self, batch: Sequence[Example]) -> None:
        groups, teacher = self.student.groups, self.trainer.teacher
        mine = micro_batches(batch, self.trainer.batching)[groups.dp.rank()]
        assert teacher.model is not None and teacher.place.groups is not None
        final_hidden_states([teacher.model], [one.teacher for one in mine], teacher.place.groups, CPU)
        self.student.zero_grad()
        self.optimizer.zero_grad()

        def forward_step(pending: Any, model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
            one: MicroBatch = next(pending)
            tokens = one.student.tokens
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
            losses = model(tokens, positions, None, labels=tokens.roll(-1, 1))
            no_count = torch.zeros((), dtype=torch.int)
            return losses, lambda output: (output.mean() / len(mine), no_count, {})

        run_schedule(forward_step, mine, self.student.wrapped, groups, tokens_shape=mine[0].student.shape)
        self.optimizer.step()


def rank_main(rank: int, name: str, port: int, folder: str, shapes: Shapes, seconds: float, out: Any) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parallel = LAYOUTS[name]
    store = dist.TCPStore("127.0.0.1", port, parallel.world_size, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=parallel.world_size)
    training = TrainingConfig(
        micro_batch_size=shapes.micro_batch, global_batch_size=shapes.batch, lr=1e-5, loss_workspace_mb=256
    )
    student, teacher = Path(folder) / "student", Path(folder) / "teacher"
    with megatron_on_cpu():
        groups = parallel_groups(
            parallel.tensor_model_parallel_size, 1, parallel.pipeline_model_parallel_size
        )
        world = World(rank, parallel.world_size, CPU, groups, None)  # type: ignore[arg-type]
        trainer = Trainer.from_folders(
            world,
            StageConfig(train_iters=1000),
            training,
            parallel,
            student_folder=student,
            teacher_folder=teacher,
        )
        bare, batch = Bare(trainer, student, parallel), texts(shapes)
        jobs = {
            "bare": lambda: bare.step(batch),
            "ours": lambda: trainer.step(batch),
            "half": lambda: trainer.step(batch[: len(batch) // 2]),
        }
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        going, begun, rounds = torch.ones(1), time.monotonic(), 0
        while going:
            for variant, job in jobs.items():
                measured = measure(job, trainer, bare)
                if rounds:  # the first round makes buffers and optimizer state
                    found[variant].append(measured | {"loss_s": measured["loss_s"] or bare.head_s})
            rounds += 1
            going.fill_(rounds < 4 or time.monotonic() - begun < seconds)
            dist.broadcast(going, 0)
        if rank == 0:
            out.put(found)
    dist.destroy_process_group()


def measure(job: Callable[[], Any], trainer: Trainer, bare: Bare) -> dict[str, float]:
    bare.head_s = 0.0
    dist.barrier()
    busy, start = busy_seconds(), time.perf_counter()
    job()
    dist.barrier()
    seconds = time.perf_counter() - start
    busy = busy_seconds() - busy
    head = torch.tensor([bare.head_s], dtype=torch.float64)
    dist.all_reduce(head, op=dist.ReduceOp.MAX)  # only the last pipeline stage has one
    bare.head_s = float(head)
    return {
        "seconds": seconds,
        "loss_s": trainer.timers.seconds(CPU)[0]["loss"],
        "cores_busy": busy / seconds,
        "load": os.getloadavg()[0],
    }


def rows(name: str, shapes: Shapes, found: dict[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    made = []
    for variant, records in found.items():
        pairs = list(zip(records, found["bare"], strict=True))
        median = {key: statistics.median(record[key] for record in records) for key in records[0]}
        without = [
            (one["seconds"] - one["loss_s"]) / (bare["seconds"] - bare["loss_s"]) for one, bare in pairs
        ]
        made.append(
            {
                "layout": name,
                "processes": LAYOUTS[name].world_size,
                **vars(shapes),
                "variant": variant,
                "median_s": f"{median['seconds']:.4g}",
                "loss_s": f"{median['loss_s']:.4g}",
                "over_bare": f"{statistics.median(a['seconds'] / b['seconds'] for a, b in pairs):.3f}",
                "over_bare_without_loss": f"{statistics.median(without):.3f}",
                "repetitions": len(records),
                "load": f"{median['load']:.2f}",
                "cores_busy": f"{median['cores_busy']:.2f}",
            }
        )
    return made


def run_layout(name: str, folder: str, shapes: Shapes, seconds: float) -> dict[str, list[dict[str, float]]]:
    context = mp.get_context("spawn")
    out = context.SimpleQueue()
    arguments = (name, free_port(), folder, shapes, seconds, out)
    running = mp.spawn(rank_main, arguments, nprocs=LAYOUTS[name].world_size, join=False)
    assert running is not None
    while out.empty():
        if running.join(timeout=0.5):
            break
    found = out.get()
    while not running.join():
        pass
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small models, two layouts")
    parser.add_argument("--seconds", type=float, default=35.0, help="for each layout, start not counted")
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/step-{today}.csv")
    options = parser.parse_args()
    shapes = QUICK if options.quick else Shapes()
    names = ["1", "TP 2"] if options.quick else list(LAYOUTS)
    made: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "student", shapes, seed=1)
        make_model(Path(folder) / "teacher", replace(shapes), seed=2, wider=2)
        for name in names:
            found = run_layout(name, folder, shapes, 0.0 if options.quick else options.seconds)
            for row in rows(name, shapes, found):
                made.append({**about_this_run("cpu"), "threads": 1, **row})
                shown = ("layout", "variant", "median_s", "loss_s", "over_bare", "over_bare_without_loss")
                print("  ".join(f"{key} {row[key]}" for key in shown), flush=True)
    add_rows(options.out, made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
