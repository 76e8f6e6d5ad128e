"""`paced compare`: several arms and seeds in one job; and `paced quickstart`, which is this on a file of
ours."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.commands.joined import work_joined
from paced_megatron.commands.options import add_overrides, add_skip_memory_check
from paced_megatron.commands.usage import Usage, explain
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE
from paced_megatron.runtime.launch import launch
from paced_megatron.runtime.launched import already_launched
from paced_megatron.runtime.signals import listening, stop_if_asked

if TYPE_CHECKING:
    from paced_megatron.experiments.experiment import Experiment
    from paced_megatron.inputs import Inputs
    from paced_megatron.runtime.world import World

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "experiment.yaml"

_ALIKE = (
    "each arm and seed becomes a run's folder of its own, in one job; then the table of arms is shown and "
    "report.html written. What is there already is not made again."
)
_WRITES = "run_dir: shared/seed-N/, arms/ARM/seed-N/ (each as `paced run` writes it), table, report.html"

COMPARE_USAGE = Usage(
    description=f"Run what is missing of an experiment: {_ALIKE} key=value replaces a key of the base.",
    reads="CONFIG (run_dir, base, arms, seeds), the base's configuration, problems and models",
    writes=_WRITES,
    examples=(
        ("paced compare examples/quickstart/experiment.yaml", "the same as `paced quickstart`"),
        (
            "paced compare examples/quickstart/experiment.yaml --arms unweighted,paced --seeds 1,2",
            "two of its arms, two of its seeds",
        ),
        (
            "paced compare examples/quickstart/experiment.yaml training.lr=1e-4 run_dir=runs/lr1e-4 --fast",
            "those that the file calls `fast:`, with two keys of the base changed",
        ),
    ),
)
QUICKSTART_USAGE = Usage(
    description=f"`paced compare` on the tiny models in examples/quickstart/, on this machine: {_ALIKE}",
    reads="examples/quickstart/ of the clone",
    writes=f"runs/quickstart/, which is its {_WRITES}",
    examples=(
        ("paced quickstart --fast", "two arms, one seed"),
        ("paced quickstart", "four arms, three seeds"),
        ("paced quickstart --arms paced --seeds 4 run_dir=runs/another", "one arm with another seed"),
    ),
)


def add(verbs: Any) -> None:
    """Both verbs, for argparse."""
    compare = verbs.add_parser(
        "compare",
        help="run an experiment's arms and seeds, those that are missing",
    )
    explain(compare, COMPARE_USAGE)
    compare.add_argument("config", type=Path, help="the experiment's YAML file: run_dir, base, arms, seeds")
    quickstart = verbs.add_parser("quickstart", help="`compare` on the tiny models in examples/quickstart/")
    explain(quickstart, QUICKSTART_USAGE)
    quickstart.set_defaults(config=QUICKSTART)
    for command in (compare, quickstart):
        add_overrides(command)
        add_skip_memory_check(command)
        command.add_argument("--arms", type=_names, metavar="A,B", help="only these arms")
        command.add_argument("--seeds", type=_numbers, metavar="1,2", help="only these seeds")
        command.add_argument("--fast", action="store_true", help="those that the file calls `fast:`")
        command.set_defaults(run=run)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names with commas between, at least one")
    return names


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers with commas between, as 1,2") from None


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run what is missing; returns the exit code. Raises UserError."""
    if options.config == QUICKSTART:
        if not QUICKSTART.is_file():
            raise UserError(f"{QUICKSTART}: not here; the quickstart runs from a clone (pip install -e .)")
        # Its two processes would want two GPUs, and gain nothing by them. Before torch looks for any.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from paced_megatron.experiments.experiment import Selection, load_experiment

    experiment = load_experiment(options.config, options.overrides)
    fast = experiment.fast if options.fast else Selection()
    experiment = experiment.only(Selection(options.arms or fast.arms, options.seeds or fast.seeds))
    from paced_megatron.evaluation.forgetting_files import check_forgetting
    from paced_megatron.experiments.compare import check_experiment
    from paced_megatron.experiments.finish import finish
    from paced_megatron.experiments.finished import missing_runs
    from paced_megatron.inputs import read_inputs
    from paced_megatron.progress import console_for
    from paced_megatron.run_folder import RunFolder
    from paced_megatron.runtime.gpus import check_gpus

    world_size = experiment.base.world_size
    with listening():
        inputs = read_inputs(experiment.base)
        if not already_launched():
            check_experiment(experiment, inputs)
            if not missing_runs(experiment):
                print("all of these runs are there already")
                finish(experiment.run_dir, console_for(0))
                return DONE
            # Of no run's folder: what the first arm measures is looked at before it.
            check_forgetting(experiment.base, RunFolder(experiment.run_dir), inputs)
        if already_launched() or world_size == 1:
            return _work_as_rank(experiment, inputs, options.skip_memory_check)
        check_gpus(world_size)
        stop_if_asked("nothing was begun")
    return launch(argv, world_size, log_dir=experiment.folder.logs)


def _work_as_rank(experiment: Experiment, inputs: Inputs, skip_memory_check: bool) -> int:
    """This process's part of an experiment; rank 0 shows what came out when the job has ended."""
    from paced_megatron.device_check import check_devices
    from paced_megatron.experiments.compare import run_missing
    from paced_megatron.experiments.finish import finish
    from paced_megatron.inputs import input_warnings
    from paced_megatron.progress import console_for, warn

    rank = int(os.environ.get("RANK", "0"))
    console = console_for(rank)

    def work(world: World) -> None:
        warnings = dict.fromkeys(input_warnings(inputs))
        for name, config in experiment.configs.items():  # they may differ in what training takes
            try:
                warnings |= dict.fromkeys(
                    check_devices(config, inputs, world, "everything", skip_memory_check)
                )
            except UserError as error:
                raise UserError(f"{error} (arm {name})") from None
        for line in warnings:
            warn(console, f"warning: {line}")
        run_missing(experiment, inputs, world, console)

    code = work_joined(experiment.base, work)
    if code == DONE and rank == 0:
        finish(experiment.run_dir, console)
    return code
