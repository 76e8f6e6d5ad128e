"""metrics.jsonl: one line per optimizer step, each step once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paced_megatron.pacing.weights import effective_sample_size
from paced_megatron.runtime.files import append_lines, read_jsonl, write_atomically
from paced_megatron.training.examples import Example
from paced_megatron.training.step import StepSums


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl.

    Attributes:
        step: optimizer steps of the stage, this one included.
        grad_norm: global L2 norm of the gradient, before clipping.
        divergence, student_entropy, teacher_entropy: means over the response's tokens, unweighted, in nats.
        tokens: response tokens of the step; `problems`: its texts.
        weight_ess: effective sample size of the weights, (sum w)^2 / sum w^2.
        step_time: seconds.
    """

    stage: int
    step: int
    loss: float
    grad_norm: float
    lr: float
    divergence: float
    student_entropy: float
    teacher_entropy: float
    tokens: int
    problems: int
    weight_ess: float
    step_time: float


def step_metrics(
    batch: Sequence[Example],
    sums: StepSums,
    *,
    stage: int,
    step: int,
    grad_norm: float,
    lr: float,
    step_time: float,
) -> StepMetrics:
    """Put a step's numbers together."""
    return StepMetrics(
        stage=stage,
        step=step,
        loss=sums.loss,
        grad_norm=grad_norm,
        lr=lr,
        divergence=sums.divergence / sums.tokens,
        student_entropy=sums.student_entropy / sums.tokens,
        teacher_entropy=sums.teacher_entropy / sums.tokens,
        tokens=int(sums.tokens),
        problems=len(batch),
        weight_ess=effective_sample_size([example.weight for example in batch]),
        step_time=step_time,
    )


def append_metrics(path: Path, metrics: StepMetrics) -> None:
    """Add one line; it is on the disk when this returns."""
    append_lines(path, [json.dumps(asdict(metrics))])


def forget_steps_after(path: Path, step: int) -> None:
    """Drop the lines of steps that come after the checkpoint from which training goes on: they will be taken
    again."""
    if path.exists():
        kept = [record for record in read_jsonl(path, cut_torn_tail=True) if record["step"] <= step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
