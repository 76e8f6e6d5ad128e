"""metrics.jsonl: one line per optimizer step, each step once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paced_megatron.pacing.weights import effective_sample_size
from paced_megatron.runtime.files import append_lines, read_jsonl, write_atomically
from paced_megatron.training.examples import Example
from paced_megatron.training.step import StepSums

STRATA = 5  # bands of the pass rate between never and always


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl.

    Attributes:
        step: optimizer steps of the stage, this one included.
        grad_norm: global L2 norm of the gradient, before clipping.
        divergence, student_entropy, teacher_entropy: means over the response's tokens, unweighted, in nats.
        tokens: response tokens of the step; `problems`: its texts.
        weight_ess: effective sample size of the weights, (sum w)^2 / sum w^2.
        clipped: whether the gradient was longer than `training.clip_grad`; their mean is the clip rate.
        pass_rate_mean: of the step's problems, by the measurement that gave them their weights.
        weight_share: stratum of the pass rate -> its share of the step's weight, strata without any left out.
        step_time: seconds; `timing_s`: of its phases (timers.PHASES), each on the rank where it took longest.
        tokens_per_s: `tokens` over `step_time`, all ranks together.
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
    clipped: bool
    pass_rate_mean: float | None
    weight_share: dict[str, float]
    step_time: float
    tokens_per_s: float
    timing_s: dict[str, float]


def step_metrics(
    batch: Sequence[Example],
    sums: StepSums,
    *,
    stage: int,
    step: int,
    grad_norm: float,
    lr: float,
    clip_grad: float,
    step_time: float,
    timing_s: dict[str, float],
) -> StepMetrics:
    """Put a step's numbers together."""
    rates = [example.pass_rate for example in batch if example.pass_rate is not None]
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
        clipped=0 < clip_grad < grad_norm,
        pass_rate_mean=math.fsum(rates) / len(rates) if rates else None,
        weight_share=weight_share(batch),
        step_time=step_time,
        tokens_per_s=sums.tokens / step_time,
        timing_s=timing_s,
    )


def stratum(pass_rate: float) -> str:
    """The band of p: "0", "0-0.2" to "0.8-1" (above the first number, up to the second), "1"."""
    if pass_rate in (0, 1):
        return f"{pass_rate:g}"
    upper = min(math.ceil(pass_rate * STRATA), STRATA) / STRATA
    return f"{upper - 1 / STRATA:.1g}-{upper:g}"


def weight_share(batch: Sequence[Example]) -> dict[str, float]:
    """Stratum -> its share of the batch's weight; empty where no pass rates are known."""
    total = math.fsum(example.weight for example in batch)
    by_stratum: dict[str, float] = {}
    for example in batch:
        if example.pass_rate is not None and total > 0:
            name = stratum(example.pass_rate)
            by_stratum[name] = by_stratum.get(name, 0.0) + example.weight / total
    return dict(sorted(by_stratum.items()))


def append_metrics(path: Path, metrics: StepMetrics) -> None:
    """Add one line; it is on the disk when this returns."""
    append_lines(path, [json.dumps(asdict(metrics))])


def forget_steps_after(path: Path, step: int) -> None:
    """Drop the lines of steps that come after the checkpoint from which training goes on: they will be taken
    again."""
    if path.exists():
        kept = [record for record in read_jsonl(path, cut_torn_tail=True) if record["step"] <= step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
