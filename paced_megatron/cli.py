"""`paced`: one verb per phase, `run` for all of them, `compare` for several runs, `report` for a folder.
Thin: what a verb does is in `phases/`, `run.py`, `experiments/` and `report/`."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paced_megatron.config import Config
from paced_megatron.config_io import load_config
from paced_megatron.errors import UserError
from paced_megatron.models import convert_command
from paced_megatron.run_folder import RunFolder
from paced_megatron.runtime.launch import already_launched, launch

if TYPE_CHECKING:
    from paced_megatron.experiments.experiment import Experiment
    from paced_megatron.inputs import Inputs
    from paced_megatron.job import Job
    from paced_megatron.runtime.world import World

USER_ERROR, INTERRUPTED = 2, 130
QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart" / "experiment.yaml"


def _run(job: Job, stages: Sequence[int]) -> None:
    from paced_megatron.run import run

    run(job)


def _phase(name: str) -> Callable[[Job, Sequence[int]], None]:
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


VERBS: dict[str, Verb] = {
    "run": Verb(
        _run, "everything, in order: roll out, weigh, respond, train, export, evaluate", by_stage=False
    ),
    "rollout": Verb(_phase("roll_out"), "the student attempts every problem K times (attempts.jsonl)"),
    "weigh": Verb(_phase("weigh"), "pass rates become problem weights (pass_rates.jsonl)"),
    "respond": Verb(_phase("respond"), "the teacher answers the problems on the frontier (responses.jsonl)"),
    "train": Verb(_phase("train"), "weighted distillation on Megatron-Core (checkpoints/, metrics.jsonl)"),
    "export": Verb(_phase("export"), "the trained student as a Hugging Face folder (hf/)"),
    "evaluate": Verb(
        _phase("evaluate_after"), "accuracy of the exported student on held-out problems (evaluation.json)"
    ),
}

_EXAMPLES = """\
examples:
  paced quickstart
      pacing against its baselines on tiny models, on this machine's CPU; --fast: two arms, one seed
  paced run recipe.yaml
      a run of your own; start it again to go on after an interruption
  paced run recipe.yaml training.lr=3e-6 run_dir=runs/lr3
      the same with two keys changed
  paced rollout recipe.yaml --stage 1
      one phase of one stage
  paced convert to-megatron models/Qwen3-8B checkpoints/qwen3-8b --verify
      weights between Hugging Face folders and Megatron checkpoints
  paced compare experiment.yaml --seeds 1,2
      several arms and seeds in one job; what is there already isn't made again
  paced report runs/lr3
      report.html of a run, or of an experiment

Keys and defaults: docs/configuration.md.
Exit codes: 0 done, 1 failed, 2 a mistake in the input, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(argv)
    # On import Megatron warns of each CUDA extension that is not there. It works without; nobody can act.
    warnings.filterwarnings("ignore", module=r"megatron\.")
    shows_errors = os.environ.get("RANK", "0") == "0"  # rank 0, or the process that the user started
    try:
        return _command(options, argv)
    except UserError as error:
        if shows_errors:
            print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        if shows_errors:
            print("paced: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paced",
        description="Distillation paced by the student's own pass rates, on Megatron-Core.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        command = verbs.add_parser(name, help=verb.help, description=verb.help)
        command.add_argument(
            "config", type=Path, help="the run's YAML file (docs/configuration.md has every key)"
        )
        _add_overrides(command)
        if verb.by_stage:
            command.add_argument(
                "--stage", type=int, metavar="N", help="only stage N, from 1 (default: all, in order)"
            )
    compare = verbs.add_parser(
        "compare", help="run an experiment's arms and seeds, those that are missing", description=_COMPARE
    )
    compare.add_argument("config", type=Path, help="the experiment's YAML file: run_dir, base, arms, seeds")
    quickstart = verbs.add_parser(
        "quickstart", help="`compare` on the tiny models in examples/quickstart/", description=_COMPARE
    )
    for command in (compare, quickstart):
        _add_overrides(command)
        command.add_argument("--arms", type=_names, metavar="A,B", help="only these arms")
        command.add_argument("--seeds", type=_numbers, metavar="1,2", help="only these seeds")
        command.add_argument(
            "--fast",
            action="store_true",
            help="those that the file calls `fast:`",
        )
    report = verbs.add_parser(
        "report", help="report.html from the files of a run or an experiment", description=_REPORT
    )
    report.add_argument("folder", type=Path, help="the run's or the experiment's folder (run_dir)")
    convert_command.add_convert(verbs)
    return parser


_COMPARE = (
    "Run what is missing of an experiment, each arm and seed into a run's folder of its own, in one job; "
    "then show the table of arms and write report.html. key=value replaces a key of the base."
)
_REPORT = "Write report.html, and the same as PNG, CSV and JSON, from a folder's files. Nothing is run."


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(name) for name in _names(text)]


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="replaces a key of the file, e.g. training.lr=3e-6"
    )


def _command(options: argparse.Namespace, argv: Sequence[str]) -> int:
    return OTHER_VERBS.get(options.verb, _phases)(options, argv)


def _phases(options: argparse.Namespace, argv: Sequence[str]) -> int:
    verb = VERBS[options.verb]
    config = load_config(options.config, options.overrides)
    stages = _stages(config, getattr(options, "stage", None))
    # Imported late, as in `_phase`.
    from paced_megatron.claim import check_run_folder
    from paced_megatron.inputs import read_inputs

    inputs, folder = read_inputs(config), RunFolder(config.run_dir)
    if not already_launched():
        # What is wrong is found here, before processes are started and models loaded.
        check_run_folder(folder, config, inputs)
        if config.parallel.world_size > 1:
            return launch(argv, config.parallel.world_size, log_dir=folder.logs)
    return _work_as_rank(config, inputs, verb, stages)


def _compare(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """`paced compare`, and `paced quickstart`, which is this on a file of ours."""
    if options.verb == "quickstart" and not QUICKSTART.is_file():
        raise UserError(f"{QUICKSTART}: not here; the quickstart runs from a clone (pip install -e .)")
    from paced_megatron.experiments.experiment import Selection, load_experiment

    path = QUICKSTART if options.verb == "quickstart" else options.config
    experiment = load_experiment(path, options.overrides)
    fast = experiment.fast if options.fast else Selection()
    experiment = experiment.only(Selection(options.arms or fast.arms, options.seeds or fast.seeds))
    from paced_megatron.experiments.compare import check_experiment, missing_runs
    from paced_megatron.experiments.finish import finish
    from paced_megatron.inputs import read_inputs
    from paced_megatron.progress import console_for

    inputs, parallel = read_inputs(experiment.base), experiment.base.parallel
    if not already_launched():
        check_experiment(experiment, inputs)
        if not missing_runs(experiment):
            print("all of these runs are there already")
            finish(experiment.run_dir, console_for(0))
            return 0
        if parallel.world_size > 1:
            return launch(argv, parallel.world_size, log_dir=experiment.folder.logs)
    return _compare_as_rank(experiment, inputs)


def _report(options: argparse.Namespace, argv: Sequence[str]) -> int:
    from paced_megatron.report import write_report

    print(write_report(options.folder))
    return 0


# Verbs that are not a row of VERBS: they have other arguments than a configuration and a stage.
OTHER_VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "compare": _compare,
    "convert": lambda options, argv: convert_command.run(options),
    "quickstart": _compare,
    "report": _report,
}


def _stages(config: Config, only: int | None) -> list[int]:
    numbers = range(1, len(config.stages) + 1)
    if only is not None and only not in numbers:
        raise UserError(f"--stage {only}: the configuration has stages 1 to {len(config.stages)}")
    return list(numbers) if only is None else [only]


def _work_as_rank(config: Config, inputs: Inputs, verb: Verb, stages: Sequence[int]) -> int:
    """This process's part of the job."""
    from paced_megatron.claim import claim_run_folder
    from paced_megatron.job import Job
    from paced_megatron.progress import console_for
    from paced_megatron.runtime.run_lock import run_lock

    folder = RunFolder(config.run_dir)

    def work(world: World) -> None:
        job = Job(config, inputs, folder, world, console_for(world.rank))
        if world.is_lead:
            with run_lock(folder.path):
                claim_run_folder(folder, config, inputs)
                verb.work(job, stages)
        else:
            verb.work(job, stages)

    return _in_world(config, work)


def _compare_as_rank(experiment: Experiment, inputs: Inputs) -> int:
    """This process's part of an experiment; rank 0 shows what came out when the job has ended."""
    from paced_megatron.experiments.compare import run_missing
    from paced_megatron.experiments.finish import finish
    from paced_megatron.progress import console_for

    rank = int(os.environ.get("RANK", "0"))
    console = console_for(rank)
    code = _in_world(experiment.base, lambda world: run_missing(experiment, inputs, world, console))
    if code == 0 and rank == 0:
        finish(experiment.run_dir, console)
    return code


def _in_world(config: Config, work: Callable[[World], None]) -> int:
    """Join the job's other processes and do the work with them; returns the exit code."""
    from paced_megatron.runtime.lead import LeadFailed
    from paced_megatron.runtime.world import joined_world

    try:
        with joined_world(config.parallel, config.seed) as world:
            work(world)
    except LeadFailed as error:
        if not error.is_user_error:
            traceback.print_exc()
        return USER_ERROR if error.is_user_error else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
