"""The phases of a run, a verb each, and `paced run` for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.commands.joined import work_joined
from paced_megatron.commands.options import add_overrides, add_skip_memory_check
from paced_megatron.commands.phase_usages import PHASE_USAGES
from paced_megatron.commands.usage import explain
from paced_megatron.config import Config
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.launch import launch
from paced_megatron.runtime.launched import already_launched
from paced_megatron.runtime.signals import listening, stop_if_asked

if TYPE_CHECKING:
    from paced_megatron.inputs import Inputs
    from paced_megatron.job import Job
    from paced_megatron.runtime.world import World


def _run(job: Job, stages: Sequence[int]) -> None:
    from paced_megatron.run import run

    run(job)


def phase(name: str) -> Callable[[Job, Sequence[int]], None]:
    """The phase of that name, for each of the stages. Imported late: `--help` and a wrong key needn't wait
    for Megatron."""

    def work(job: Job, stages: Sequence[int]) -> None:
        from paced_megatron import phases

        for stage in stages:
            getattr(phases, name)(job, stage)

    return work


@dataclass(frozen=True)
class Verb:
    """A row of the command line: what it does, and what `--help` says."""

    work: Callable[[Job, Sequence[int]], None]
    help: str
    by_stage: bool = True
    turns: str = "nothing"  # what it does that takes a GPU's memory: a row of plan/room.TURNS
    begins: bool = True  # whether it can be a run's first; if not, a misspelt run_dir makes no folder


VERBS: dict[str, Verb] = {
    "run": Verb(
        _run,
        "everything, in order: roll out, weigh, respond, train, export, evaluate",
        by_stage=False,
        turns="everything",
    ),
    "rollout": Verb(
        phase("roll_out"), "the student attempts every problem K times (attempts.jsonl)", turns="rollouts"
    ),
    "weigh": Verb(phase("weigh"), "pass rates become problem weights (pass_rates.jsonl)", begins=False),
    "respond": Verb(
        phase("respond"),
        "the teacher answers the problems on the frontier (responses.jsonl)",
        turns="responses",
    ),
    "evaluate-before": Verb(
        phase("evaluate_before"),
        "accuracy of the student that the stage starts from, as step 0",
        turns="evaluation",
    ),
    "train": Verb(
        phase("train"),
        "weighted distillation on Megatron-Core (checkpoints/, metrics.jsonl)",
        turns="training",
        begins=False,
    ),
    "export": Verb(phase("export"), "the trained student as a Hugging Face folder (hf/)", begins=False),
}


def add(verbs: Any) -> None:
    """A verb for each row of VERBS, for argparse."""
    for name, verb in VERBS.items():
        command = verbs.add_parser(name, help=verb.help)
        explain(command, PHASE_USAGES[name])
        command.add_argument(
            "config", type=Path, help="the run's YAML file (docs/configuration.md has every key)"
        )
        add_overrides(command)
        if verb.turns != "nothing":
            add_skip_memory_check(command)
        if verb.by_stage:
            command.add_argument(
                "--stage", type=int, metavar="N", help="only stage N, from 1 (default: all, in order)"
            )
        command.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Do the work of the verb; returns the exit code. Raises UserError."""
    stage = getattr(options, "stage", None)
    skip = getattr(options, "skip_memory_check", False)
    return run_verb(VERBS[options.verb], options.config, options.overrides, stage, argv, skip)


def run_verb(
    verb: Verb,
    path: Path,
    overrides: Sequence[str],
    stage: int | None,
    argv: Sequence[str],
    skip_memory_check: bool = False,
) -> int:
    """The verb on the configuration in `path`, for one stage or all (None); returns the exit code."""
    config = load_config(path, overrides)
    stages = _stages(config, stage)
    # Imported late, as in `phase`.
    from paced_megatron.claim import check_run_folder
    from paced_megatron.evaluation.forgetting_files import check_forgetting
    from paced_megatron.inputs import read_inputs
    from paced_megatron.runtime.gpus import check_gpus

    with listening():
        inputs, folder = read_inputs(config), RunFolder(config.run_dir)
        if not already_launched():
            # What is wrong is found here, before processes are started and models loaded.
            check_run_folder(folder, config, inputs)
            if not verb.begins and not folder.config.exists():
                raise UserError(
                    f"{folder.path}: no run is there; begin it with `paced rollout` or `paced run`, or "
                    "correct run_dir"
                )
            check_forgetting(config, folder, inputs)
        if already_launched() or config.world_size == 1:
            return _work_as_rank(config, inputs, verb, stages, skip_memory_check)
        check_gpus(config.world_size)
        stop_if_asked("nothing was begun")
    return launch(argv, config.world_size, log_dir=folder.logs)


def _stages(config: Config, only: int | None) -> list[int]:
    numbers = range(1, len(config.stages) + 1)
    if only is not None and only not in numbers:
        raise UserError(f"--stage {only}: the configuration has stages 1 to {len(config.stages)}")
    return list(numbers) if only is None else [only]


def _work_as_rank(
    config: Config, inputs: Inputs, verb: Verb, stages: Sequence[int], skip_memory_check: bool
) -> int:
    """This process's part of the job."""
    from paced_megatron.claim import claim_run_folder
    from paced_megatron.device_check import check_devices
    from paced_megatron.inputs import input_warnings
    from paced_megatron.job import Job, job_engine
    from paced_megatron.progress import console_for, warn
    from paced_megatron.runtime.run_lock import run_lock

    folder = RunFolder(config.run_dir)

    def work(world: World) -> None:
        console = console_for(world.rank)
        for line in check_devices(config, inputs, world, verb.turns, skip_memory_check, stages):
            warn(console, f"warning: {line}")
        with job_engine(config, inputs, folder.logs, world, console) as rollouts:
            job = Job(config, inputs, folder, world, console, rollouts)
            if inputs.dropped:
                job.say(f"training problems that are held-out ones too, left out: {len(inputs.dropped)}")
            for line in input_warnings(inputs):
                job.warn(line)
            if world.is_lead:
                with run_lock(folder.path):
                    claim_run_folder(folder, config, inputs)
                    verb.work(job, stages)
            else:
                verb.work(job, stages)

    return work_joined(config, work)
