"""`paced doctor`: what works on this machine, and what doesn't."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from paced_megatron.commands.compare import QUICKSTART
from paced_megatron.commands.options import add_overrides
from paced_megatron.commands.usage import Usage, explain
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from paced_megatron.doctor import Asked

QUICKSTART_BASE = QUICKSTART.parent / "quickstart.yaml"

USAGE = Usage(
    description="What is here (packages, GPU, memory, disk, network, SGLang, Slurm), and in words what will "
    "and what won't work with it: for `paced quickstart`, or for the run of CONFIG.",
    reads="the machine, and CONFIG with the config.json of its models; it asks the Hugging Face hub and "
    "servers whether they answer",
    writes="nothing",
    examples=(
        ("paced doctor", "the first thing to run on a machine"),
        ("paced doctor examples/one_gpu/recipe.yaml", "also what that run needs: processes, memory, disk"),
        ("paced doctor --url http://127.0.0.1:30000 --json", "also a running SGLang server; as JSON"),
    ),
    exit_codes="0 nothing stands in the way, 1 something does, 2 a mistake in the input",
)


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    doctor = verbs.add_parser("doctor", help="what works on this machine, in words; for a run or in general")
    explain(doctor, USAGE)
    doctor.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="a run's YAML file (default: the quickstart)"
    )
    add_overrides(doctor)
    doctor.add_argument("--url", help="an SGLang server to ask, as in http://127.0.0.1:30000")
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    doctor.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Look, and print what was found; returns the exit code. Raises UserError for a CONFIG that is wrong."""
    if options.config is not None and "=" in str(options.config):
        raise UserError(f"{options.config}: name a CONFIG before it, whose key it replaces")
    asked = _asked(options)
    from paced_megatron.doctor import examine
    from paced_megatron.doctor.show import as_json, print_findings, problems

    with Console(stderr=True).status("looking") as status:  # shown on a terminal alone
        findings = examine(asked, lambda name: status.update(f"looking at: {name}"))
    if options.json:
        sys.stdout.write(as_json(findings, asked) + "\n")
    else:
        print_findings(findings, asked)
    return FAILED if problems(findings) else DONE


def _asked(options: argparse.Namespace) -> Asked:
    from paced_megatron.doctor import Asked

    if options.config is not None:
        config = load_config(options.config, options.overrides)
        return Asked(config, str(options.config), options.url)
    if not QUICKSTART_BASE.is_file():  # installed without the clone
        return Asked(None, "a run of your own", options.url)
    quickstart = load_config(QUICKSTART_BASE, ["run_dir=runs/quickstart"])
    return Asked(quickstart, "paced quickstart", options.url, uses_gpus=False)
