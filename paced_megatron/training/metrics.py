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
        step: steps of the stage, this one included; one with no problem on the frontier took no optimizer
            step: its loss, grad_norm, tokens, problems and texts are 0.
        grad_norm: global L2 norm of the gradient, before clipping.
        divergence, student_entropy, teacher_entropy: means over the response's tokens, unweighted, in nats;
            None where there were none.
        tokens: response tokens of the step; `problems`, `texts`: those trained on. On stored text each
            problem has one text.
        tokens_kept: share of `tokens` that are trained on: neither the weight of their problem nor their own
            is 0. None where there were no tokens.
        weight_ess: effective sample size of the problems' weights, (sum w)^2 / sum w^2.
        clipped: whether the gradient was longer than `training.clip_grad`; their mean is the clip rate.
        pass_rate_mean: of the step's texts, by the measurement that gave them their weights.
        weight_share: stratum of the pass rate -> its share of the step's weight, strata without any left out.
        step_time: seconds; `timing_s`: of its phases (timers.PHASES), each on the rank where it took longest;
            in an on-policy stage also `sync` and `rollout`, on rank 0, which are not within `step_time`.
        tokens_per_s: `tokens` over `step_time`, all ranks together.
        rollout: of the attempts that were made before this step: how many `problems` were drawn, which
            `frontier_share` of them lies on the frontier and which `kept_share` is trained on, the
            `pass_rate` over all of them, `attempts`, `tokens`, `truncated_share`; empty where none were made.
    """

    stage: int
    step: int
    loss: float
    grad_norm: float
    lr: float
    divergence: float | None
    student_entropy: float | None
    teacher_entropy: float | None
    tokens: int
    tokens_kept: float | None
    problems: int
    texts: int
    weight_ess: float
    clipped: bool
    pass_rate_mean: float | None
    weight_share: dict[str, float]
    step_time: float
    tokens_per_s: float
    timing_s: dict[str, float]
    rollout: dict[str, float]

    @property
    def shown(self) -> dict[str, str]:
        """What the progress line says of the step's rollouts."""
        if not self.rollout:
            return {}
        return {
            "on the frontier": f"{self.rollout['frontier_share']:.0%}",
            "pass rate": f"{self.rollout['pass_rate']:.2f}",
            "rollout": f"{self.rollout['tokens']:.0f} tokens in {self.timing_s['rollout']:.1f} s",
        }


def step_metrics(
    batch: Sequence[Example],
    sums: StepSums,
    *,
    weights: Sequence[float],
    stage: int,
    step: int,
    grad_norm: float,
    lr: float,
    clip_grad: float,
    step_time: float,
    timing_s: dict[str, float],
    rollout: dict[str, float],
) -> StepMetrics:
    """Put a step's numbers together; `weights` are those of its problems, which have one or more texts."""
    rates = [example.pass_rate for example in batch if example.pass_rate is not None]

    def per_token(total: float) -> float | None:
        return total / sums.tokens if sums.tokens else None

    return StepMetrics(
        stage=stage,
        step=step,
        loss=sums.loss,
        grad_norm=grad_norm,
        lr=lr,
        divergence=per_token(sums.divergence),
        student_entropy=per_token(sums.student_entropy),
        teacher_entropy=per_token(sums.teacher_entropy),
        tokens=int(sums.tokens),
        tokens_kept=per_token(sums.kept),
        problems=len(weights),
        texts=len(batch),
        weight_ess=effective_sample_size(weights) if weights else 0.0,
        clipped=0 < clip_grad < grad_norm,
        pass_rate_mean=math.fsum(rates) / len(rates) if rates else None,
        weight_share=weight_share(batch),
        step_time=step_time,
        tokens_per_s=sums.tokens / step_time,
        timing_s=timing_s,
        rollout=rollout,
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
