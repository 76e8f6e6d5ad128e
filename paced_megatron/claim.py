"""A run's folder belongs to one configuration and one set of problems."""

from __future__ import annotations

import json
from dataclasses import asdict

from paced_megatron.config import Config
from paced_megatron.config.io import diff_configs, dump_config, recorded_config
from paced_megatron.errors import UserError
from paced_megatron.experiments.shared import check_shared
from paced_megatron.inputs import Inputs
from paced_megatron.report.environment import write_environment
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.files import sweep_leftovers, write_atomically

_MAY_DIFFER = (
    # The folder may be moved, and servers come and go.
    "run_dir",
    "problems.verifier.workers",
    "rollout.urls",
    "rollout.teacher_urls",
    "rollout.launch",
    "rollout.colocate",
    "rollout.concurrency",
    "rollout.request_timeout_s",
    # How the work is shared out and what fits into memory: the same sums in another order (docs/resume.md).
    "parallel",
    "teacher.tensor_model_parallel_size",
    "teacher.pipeline_model_parallel_size",
    "teacher.own_ranks",
    "teacher.data_parallel_size",
    "teacher.offload",
    "teacher.cache",
    "training.micro_batch_size",
    "training.pack_length",
    "training.recompute_granularity",
    "training.recompute_num_layers",
    "training.transformer_impl",
    "training.loss_workspace_mb",
    "training.loss_kernels",
    # What is kept and shown, not what is trained.
    "training.save_interval",
    "training.keep_checkpoints",
    "logging",
    # Each measurement has its own settings beside it (evaluation/forgotten.py); what differs is made anew.
    "evaluation.forgetting_tasks",
    "evaluation.forgetting_fewshot",
    "evaluation.forgetting_limit",
    "evaluation.forgetting_batch_size",
    "evaluation.forgetting_include_path",
)


def check_run_folder(folder: RunFolder, config: Config, inputs: Inputs) -> None:
    """Writes nothing.

    Raises:
        UserError: the folder holds something else than a run, or a run of another configuration or other
            problems; or a file that it shares with other arms is not what it was.
    """
    if not folder.config.exists():
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{folder.path}: a file; run_dir names a folder")
        foreign = _foreign_files(folder)
        if foreign:
            raise UserError(
                f"{folder.path}: not a run's folder (it holds {min(foreign)} and no config.yaml); choose "
                "another run_dir"
            )
        return
    differences = diff_configs(recorded_config(folder.config), config, ignore=_MAY_DIFFER)
    if differences:
        shown = "; ".join(f"{key} was {before!r}, is {after!r}" for key, before, after in differences[:3])
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise UserError(
            f"{folder.path} holds a run of another configuration: {shown}{more}; choose another run_dir, or "
            f"go back to {folder.config}. Layout, memory, servers and saving may change (docs/resume.md)"
        )
    check_shared(folder)
    if folder.problems.exists() and folder.problems.read_text(encoding="utf-8") != _problem_lines(inputs):
        raise UserError(
            f"{config.problems.train}: not the problems that the run in {folder.path} began with "
            f"({folder.problems}); choose another run_dir"
        )


def claim_run_folder(folder: RunFolder, config: Config, inputs: Inputs) -> None:
    """Check the folder (see `check_run_folder`), and write the configuration and the problems into a new
    one."""
    check_run_folder(folder, config, inputs)
    sweep_leftovers(folder.path)
    if not folder.problems.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.problems, _problem_lines(inputs))
    if not folder.config.exists():
        write_environment(folder.environment)
        write_atomically(folder.config, dump_config(config))


def _foreign_files(folder: RunFolder) -> list[str]:
    """Names in the folder that a run killed at its very start would not have left."""
    ours = {folder.problems, folder.environment, folder.logs}
    found = folder.path.iterdir() if folder.path.is_dir() else ()
    return [path.name for path in found if path not in ours and not path.name.startswith(".")]


def _problem_lines(inputs: Inputs) -> str:
    return "".join(
        json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in inputs.train.by_id.values()
    )
