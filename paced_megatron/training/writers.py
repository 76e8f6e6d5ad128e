"""What metrics.jsonl says, to TensorBoard and Weights & Biases too, where they are asked for.

metrics.jsonl is the record; these are views of it, under the names that users of such trackers expect.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.config import LoggingConfig
from paced_megatron.errors import UserError

if TYPE_CHECKING:  # what is asked at start needn't wait for Megatron
    from paced_megatron.training.metrics import StepMetrics

# A tracker's name -> the field of metrics.jsonl; for a dict each of its entries, behind a slash.
SCALARS = {
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/clipped": "clipped",
    "train/lr": "lr",
    "train/divergence": "divergence",
    "train/student_entropy": "student_entropy",
    "train/teacher_entropy": "teacher_entropy",
    "train/tokens": "tokens",
    "train/tokens_kept": "tokens_kept",
    "train/tokens_per_s": "tokens_per_s",
    "train/step_time": "step_time",
    "pace/problems": "problems",
    "pace/texts": "texts",
    "pace/pass_rate/mean": "pass_rate_mean",
    "pace/weight/ess": "weight_ess",
    "pace/weight/share": "weight_share",
    "timing_s": "timing_s",
    "rollout": "rollout",
}

Writer = Callable[[Mapping[str, float], int], None]
"""(name -> number, step)"""


def scalars(metrics: StepMetrics) -> dict[str, float]:
    """A step's numbers under the trackers' names; what is not known is left out."""
    record = asdict(metrics)
    found: dict[str, float] = {}
    for name, field in SCALARS.items():
        entries = record[field] if isinstance(record[field], dict) else {"": record[field]}
        for key, value in entries.items():
            if value is not None:
                found[f"{name}/{key}" if key else name] = float(value)
    return found


def check_installed(logging: LoggingConfig) -> None:
    """Raise UserError where a tracker is asked for whose package is not there."""
    for key, package, asked in (
        ("logging.tensorboard=true", "tensorboard", logging.tensorboard),
        (f"logging.wandb_project={logging.wandb_project}", "wandb", logging.wandb_project is not None),
    ):
        if asked and importlib.util.find_spec(package) is None:
            raise UserError(
                f"{key} needs the package {package}: `pip install {package}`, or leave the key out; "
                "metrics.jsonl has the same numbers"
            )


def open_writers(
    logging: LoggingConfig, run: Path, stage: int, dropped: Mapping[str, int], done: int = 0
) -> list[Writer]:
    """Those that are asked for, on rank 0; none elsewhere. They get what was dropped before the stage's first
    step at once.

    Steps that are taken again after a kill replace those that were lost: TensorBoard is told to forget what
    it has from there on (purge_step), and Weights & Biases keeps the first of two values for a step, which on
    the same machine is the same.

    Args:
        done: steps of the checkpoint from which training goes on.
        run: the run's folder; TensorBoard's files are in its `stage-N/tensorboard`.
        dropped: "k0" and "kK": how many problems were left out because none or all attempts were correct.
    """
    writers: list[Writer] = []
    if logging.tensorboard:
        writers.append(_tensorboard(run / f"stage-{stage}" / "tensorboard", done))
    if logging.wandb_project is not None:
        writers.append(_wandb(logging.wandb_project, f"{run.name}-stage-{stage}", run))
    for write in writers if not done else ():
        write({f"pace/dropped/{name}": count for name, count in dropped.items()}, 0)
    return writers


def _tensorboard(folder: Path, done: int) -> Writer:
    from torch.utils.tensorboard import SummaryWriter

    # 1, not 0, on a first start: what was dropped is at step 0.
    summary = SummaryWriter(log_dir=str(folder), purge_step=done + 1)

    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            summary.add_scalar(name, value, step)
        summary.flush()

    return write


def _wandb(project: str, name: str, folder: Path) -> Writer:
    import wandb

    # The same name is the same run: one that was killed goes on in it.
    run: Any = wandb.init(project=project, name=name, id=name, dir=str(folder), resume="allow", reinit=True)
    return lambda values, step: run.log(dict(values), step=step)
