"""`paced plan`: what a run will take on each rank, before anything is queued."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paced_megatron.commands.options import add_overrides
from paced_megatron.commands.usage import Usage, explain
from paced_megatron.config.io import load_config
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED
from paced_megatron.plan import PROMPT_TOKENS
from paced_megatron.plan.gpus import DATA_SHEET_GB, memory_of

USAGE = Usage(
    description="Bytes on each rank, part by part, and the matrix products of a step, for the layout of a "
    "configuration. What does not fit is red, and a layout that would is named.",
    reads="CONFIG, and of its models config.json alone (of a model on the hub it is fetched); nothing is "
    "loaded or started",
    writes="nothing",
    examples=(
        (
            "paced plan examples/quickstart/quickstart.yaml --memory-gb 80",
            "does it fit into a GPU with 80 GB, before anything is queued?",
        ),
        ("paced plan examples/one_gpu/recipe.yaml --gpu h200", "into one of these?"),
        (
            "paced plan examples/quickstart/quickstart.yaml parallel.tensor_model_parallel_size=1 --json",
            "another layout, as JSON",
        ),
    ),
    exit_codes=(
        "0 it fits, or there is nothing to compare with; 1 it does not fit; 2 a mistake in the input"
    ),
)


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    plan = verbs.add_parser(
        "plan",
        help="memory on each rank and work of a step, from config.json alone; exit code 1: does not fit",
    )
    explain(plan, USAGE)
    plan.add_argument("config", type=Path, help="the run's YAML file (docs/configuration.md has every key)")
    add_overrides(plan)
    size = plan.add_mutually_exclusive_group()
    size.add_argument(
        "--gpu",
        metavar="NAME",
        help=f"the GPU to plan for, with the memory of its data sheet: {', '.join(DATA_SHEET_GB)}",
    )
    size.add_argument(
        "--memory-gb",
        type=float,
        metavar="GB",
        help="memory of one GPU in units of 2^30 bytes (default: that of the GPU here, if there is one)",
    )
    plan.add_argument(
        "--prompt-tokens",
        type=int,
        default=PROMPT_TOKENS,
        metavar="N",
        help=f"of the longest prompt (default: {PROMPT_TOKENS})",
    )
    plan.add_argument(
        "--response-tokens",
        type=int,
        metavar="N",
        help="of the longest response (default: rollout.max_new_tokens)",
    )
    plan.add_argument("--json", action="store_true", help="the same as JSON, in bytes and operations")
    plan.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Print the plan; returns the exit code. Raises UserError."""
    config = load_config(options.config, options.overrides)
    # Imported late: `--help` and a wrong key needn't wait for torch.
    import torch

    from paced_megatron.plan.from_config import Texts, planned_work
    from paced_megatron.plan.plan import make_plan
    from paced_megatron.plan.table import print_plan

    response_tokens = options.response_tokens
    if response_tokens is None:
        response_tokens = config.rollout.max_new_tokens
    for name, value in (
        ("--prompt-tokens", options.prompt_tokens),
        ("--response-tokens", response_tokens),
        ("--memory-gb", options.memory_gb),
    ):
        if value is not None and value <= 0:
            raise UserError(f"{name} {value:g}: must be above 0")
    limit = None if options.memory_gb is None else options.memory_gb * 2**30
    if options.gpu is not None:
        limit = memory_of(options.gpu)
    if limit is None and torch.cuda.is_available():
        limit = float(torch.cuda.get_device_properties(0).total_memory)
    on_cpu = limit is None
    work = planned_work(config, Texts(options.prompt_tokens, response_tokens), "cpu" if on_cpu else "cuda")
    plan = make_plan(work, limit, [config.budget(number) for number in range(1, len(config.stages) + 1)])
    if options.json:
        print(plan.as_json())
    else:
        print_plan(plan)
    return DONE if plan.fits is not False else FAILED
