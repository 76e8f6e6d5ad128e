"""`paced`: the command line. Thin: a verb's arguments are in `commands/`, what it does in `phases/`,
`run.py`, `experiments/`, `report/` and `models/`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from paced_megatron.commands import check_rollout, compare, convert, doctor, evaluate, phases, plan, report
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import INTERRUPTED, STOPPED, USER_ERROR
from paced_megatron.runtime.files import cannot_write
from paced_megatron.runtime.launched import slurm_task
from paced_megatron.runtime.signals import Stopped

COMMANDS = (phases, evaluate, plan, compare, report, convert, check_rollout, doctor)  # as in `--help`

_EXAMPLES = """\
examples:
  paced doctor
      what works on this machine, in words
  paced quickstart
      pacing against its baselines on tiny models, on this machine's CPU; --fast: two arms, one seed
  paced run recipe.yaml
      a run of your own; start it again to go on after an interruption
  paced run recipe.yaml training.lr=3e-6 run_dir=runs/lr3
      the same with two keys changed
  paced rollout recipe.yaml --stage 1
      one phase of one stage
  paced plan recipe.yaml --memory-gb 80
      before anything is queued: memory on each rank, work of a step, a layout that fits
  paced convert to-megatron models/Qwen3-8B checkpoints/qwen3-8b --verify
      weights between Hugging Face folders and Megatron checkpoints
  paced compare experiment.yaml --seeds 1,2
      several arms and seeds in one job; what is there already isn't made again
  paced report runs/lr3
      report.html of a run, or of an experiment

Keys and defaults: docs/configuration.md.
Exit codes: 0 done, 1 failed, 2 a mistake in the input, 75 stopped by SIGTERM or SIGUSR1 with everything
saved (start the same command again), 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _parsed(argv)
    # On import Megatron warns of each CUDA extension that is not there. It works without; nobody can act.
    warnings.filterwarnings("ignore", module=r"megatron\.")
    shows_errors = _rank() == "0"
    try:
        os.environ.update(slurm_task(os.environ))
        return options.run(options, argv)
    except UserError as error:
        if shows_errors:
            print(f"paced: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:  # where no writer of ours has told it, as a log's
        if (told := cannot_write(error)) is None:
            raise
        if shows_errors:
            print(f"paced: {told}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        if shows_errors:
            print("paced: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except Stopped as stopped:
        if shows_errors:
            print(f"paced: {stopped}", file=sys.stderr)
        return STOPPED


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The options; `key=value`, and a folder of `paced evaluate`, may stand behind an option too. argparse
    takes a list of arguments in one piece, and would refuse the last word of `compare FILE --seeds 1 a=b`."""
    parser = _parser()
    options, left = parser.parse_known_args(argv)
    if left:
        more = "targets" if hasattr(options, "targets") else "overrides"
        takes_all = more == "targets" or all("=" in word for word in left)
        if not hasattr(options, more) or not takes_all or any(word.startswith("-") for word in left):
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        setattr(options, more, [*getattr(options, more), *left])
    return options


def _rank() -> str:
    """ "0" for rank 0, and for the process that the user started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paced",
        description="Distillation paced by the student's own pass rates, on Megatron-Core.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for command in COMMANDS:
        command.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
