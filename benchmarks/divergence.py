"""Time and memory of forward_kl with all gradients, over the least that a head costs, and beside plain torch.

    python benchmarks/divergence.py                   # minutes; writes benchmarks/results/divergence-DATE.csv
    python benchmarks/divergence.py --quick           # seconds, a small vocabulary: does it run at all
    python benchmarks/divergence.py --sizes 256x1024 1024x1024 --repetitions 5

`benchmarks/README.md` says what the columns mean. The variants take turns, repetition by repetition, so that
whatever else the machine does meets all of them; the ratio is that of neighbours in time.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from machine import PEAKS, about_this_run, busy_seconds
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from paced_megatron.divergence import weighted_divergence

ROOT = Path(__file__).resolve().parents[1]
QWEN3_VOCABULARY = 151_936
SIZES = ["256x1024", "256x2048", "1024x1024", "1024x2048", "2048x1024", "2048x2048"]
MB = 2**20
PRINTED = ["tokens", "hidden_size", "variant", "median_s", "over_floor", "cpu_s", "cpu_over_floor"]
PRINTED += ["peak_mb", "cores_of_others", "note"]


@dataclass(frozen=True)
class Models:
    """What every variant starts from: N tokens of both models, and both heads [V, H]."""

    student_hidden: Tensor
    student_head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor
    weights: Tensor

    @staticmethod
    def of(vocabulary: int, tokens: int, hidden_size: int, device: str) -> Models:
        """Logits with a standard deviation of 3, the teacher's near the student's: about 1 nat per token."""
        torch.manual_seed(5)
        hidden = torch.randn(tokens, hidden_size, device=device)
        head = torch.randn(vocabulary, hidden_size, device=device).mul_(3 / hidden_size**0.5)
        teacher_hidden = hidden + 0.5 * torch.randn(tokens, hidden_size, device=device)
        weights = torch.full((tokens,), 1 / tokens, device=device)
        # The teacher's head is another tensor: one that lies in the cache already would help it.
        teacher_head = head.clone()
        return Models(hidden.requires_grad_(), head.requires_grad_(), teacher_hidden, teacher_head, weights)


Gradients = tuple[Tensor, Tensor]
"""of the student's hidden states and head"""
Job = Callable[[], Gradients]


def floor(models: Models, workspace_mb: float) -> Job:
    """The four products with a head that nothing can do without, into logits that are in memory already."""
    shape = models.student_hidden.shape[0], models.student_head.shape[0]
    student_logits, teacher_logits = models.weights.new_zeros(shape), models.weights.new_zeros(shape)
    for logits in (student_logits, teacher_logits):
        logits.fill_(1.0)  # what was only asked for is not in memory yet

    @torch.no_grad()
    def job() -> Gradients:
        torch.mm(models.student_hidden, models.student_head.t(), out=student_logits)
        torch.mm(models.teacher_hidden, models.teacher_head.t(), out=teacher_logits)
        return student_logits @ models.student_head, student_logits.t() @ models.student_hidden

    return job


def ours(models: Models, workspace_mb: float) -> Job:
    def job() -> Gradients:
        result = weighted_divergence(
            models.student_hidden,
            models.student_head,
            models.teacher_hidden,
            models.teacher_head,
            models.weights,
            divergence="forward_kl",
            vocab_size=models.student_head.shape[0],
            compute_grad=True,
            workspace_mb=workspace_mb,
        )
        return _gradients(models, result.loss)

    return job


def torch_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
) -> Tensor:
    """As one would write it: full logits, and autograd for the rest."""
    student = log_softmax(student_hidden @ student_head.t(), -1)
    teacher = log_softmax(teacher_hidden @ teacher_head.t(), -1)
    return (weights * kl_div(student, teacher, reduction="none", log_target=True).sum(-1)).sum()


def materialised(models: Models, workspace_mb: float) -> Job:
    return lambda: _gradients(models, torch_loss(*vars(models).values()))


def compiled(models: Models, workspace_mb: float) -> Job:
    loss = torch.compile(torch_loss, dynamic=False)
    return lambda: _gradients(models, loss(*vars(models).values()))


VARIANTS: dict[str, Callable[[Models, float], Job]] = {
    "floor": floor,
    "ours": ours,
    "torch": materialised,
    "torch.compile": compiled,
}


def _gradients(models: Models, loss: Tensor) -> Gradients:
    hidden, head = torch.autograd.grad(loss, [models.student_hidden, models.student_head])
    return hidden, head


@dataclass
class Record:
    """What the repetitions of one variant at one size gave."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    loads: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    note: str = ""

    def measure(self, make: Callable[[Models, float], Job], models: Models, workspace_mb: float) -> None:
        memory = PEAKS[models.weights.device.type]
        before = memory.start()
        job = make(models, workspace_mb)
        synchronize = torch.cuda.synchronize if models.weights.is_cuda else lambda: None
        synchronize()
        busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
        gradients = job()
        synchronize()
        seconds = time.perf_counter() - start
        own = time.process_time() - own
        self.seconds.append(seconds)
        self.cpu_seconds.append(own)
        self.peak_mb = max(self.peak_mb, (memory.peak() - before) / MB)
        self.loads.append(os.getloadavg()[0])
        self.others.append((busy_seconds() - busy - own) / seconds)
        del gradients


def run_size(models: Models, variants: list[str], repetitions: int, workspace_mb: float) -> dict[str, Record]:
    records = {name: Record() for name in variants}
    if "torch.compile" in variants:
        try:  # compiling is not timed
            torch._dynamo.reset()
            compiled(models, workspace_mb)()
        except Exception as error:  # whatever a machine without a working compiler raises
            records["torch.compile"].note = f"did not compile: {' '.join(str(error).split())[:150]}"
    for _ in range(repetitions):
        for name in variants:
            if not records[name].note:
                records[name].measure(VARIANTS[name], models, workspace_mb)
    return records


def median_ratio(numbers: list[float], least: list[float]) -> float:
    return statistics.median(mine / floor for mine, floor in zip(numbers, least, strict=True))


def rows(records: dict[str, Record], models: Models, common: dict[str, object]) -> list[dict[str, object]]:
    tokens, hidden_size = models.student_hidden.shape
    floors = records["floor"]
    made = []
    for name, record in records.items():
        row: dict[str, object] = {
            **common,
            "vocabulary": models.student_head.shape[0],
            "tokens": tokens,
            "hidden_size": hidden_size,
            "dtype": str(models.student_hidden.dtype).removeprefix("torch."),
            "variant": name,
            "median_s": "",
            "min_s": "",
            "over_floor": "",
            "cpu_s": "",
            "cpu_over_floor": "",
            "peak_mb": "",
            "peak_method": PEAKS[models.weights.device.type].method,
            "repetitions": len(record.seconds),
            "load": "",
            "cores_of_others": "",
            "note": record.note,
        }
        if record.seconds:
            row |= {
                "median_s": f"{statistics.median(record.seconds):.4g}",
                "min_s": f"{min(record.seconds):.4g}",
                "over_floor": f"{median_ratio(record.seconds, floors.seconds):.3f}",
                "cpu_s": f"{statistics.median(record.cpu_seconds):.4g}",
                "cpu_over_floor": f"{median_ratio(record.cpu_seconds, floors.cpu_seconds):.3f}",
                "peak_mb": f"{record.peak_mb:.0f}",
                "load": f"{statistics.median(record.loads):.2f}",
                "cores_of_others": f"{statistics.median(record.others):.2f}",
            }
        made.append(row)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small vocabulary and few tokens")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="NxH", help="tokens x hidden size")
    parser.add_argument("--vocabulary", type=int, default=QWEN3_VOCABULARY)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workspace-mb", type=float, default=256.0, help="as weighted_divergence takes it")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, help="the CSV to write; by default under benchmarks/results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.vocabulary, arguments.workspace_mb = ["64x32"], 2000, 1.0
    variants = list(dict.fromkeys(["floor", *arguments.variants]))
    out = arguments.out or ROOT / "benchmarks/results" / f"divergence-{datetime.date.today()}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)

    made: list[dict[str, object]] = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for size in arguments.sizes:
            tokens, hidden_size = map(int, size.split("x"))
            models = Models.of(arguments.vocabulary, tokens, hidden_size, device)
            common = about_this_run(device) | {"workspace_mb": arguments.workspace_mb}
            made += rows(
                run_size(models, variants, arguments.repetitions, arguments.workspace_mb), models, common
            )
            for row in made[-len(variants) :]:
                print(*(f"{key}={row[key]}" for key in PRINTED), flush=True)
            with out.open("w", newline="") as file:  # after every size: what is measured is kept
                writer = csv.DictWriter(file, made[0])
                writer.writeheader()
                writer.writerows(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
