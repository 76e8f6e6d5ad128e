"""The command line of the converter: `paced convert`, and the two files in tools/ that are named for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.commands.usage import Usage, explain
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED, INTERRUPTED, USER_ERROR

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Direction:
    """A row of the command line.

    Attributes:
        takes, makes: what INPUT and OUT are.
        tool: the file in tools/ that does the same.
    """

    help: str
    takes: str
    makes: str
    tool: str
    examples: str


DIRECTIONS: dict[str, Direction] = {
    "to-megatron": Direction(
        help="a Hugging Face folder becomes a Megatron distributed checkpoint (torch_dist)",
        takes="the Hugging Face folder (config.json, *.safetensors, tokenizer), or a model's name on the hub",
        makes="the checkpoint to be; Megatron's --load takes it, at any layout",
        tool="convert_hf_to_megatron.py",
        examples="""\
  {command} models/Qwen3-8B checkpoints/qwen3-8b
      weights keep their dtype; Megatron starts from them with --load checkpoints/qwen3-8b
  {command} models/Qwen3-8B checkpoints/qwen3-8b --dtype bfloat16 --verify
      rounded to bfloat16, read back and compared before the folder gets its name
  {command} models/Qwen3-8B checkpoints/qwen3-8b --dry-run --tensor-model-parallel-size 8
      the map for this model: which tensor goes where, in which shape; nothing is written
""",
    ),
    "to-hf": Direction(
        help="a Megatron distributed checkpoint, saved at any layout, becomes a Hugging Face folder",
        takes="the checkpoint: what Megatron's --save made, or one iteration's folder in it",
        makes="the Hugging Face folder to be",
        tool="convert_megatron_to_hf.py",
        examples="""\
  {command} checkpoints/qwen3-8b models/Qwen3-8B-again
      a checkpoint that the other direction made has config.json and the tokenizer with it
  {command} runs/sft models/Qwen3-8B-sft --source models/Qwen3-8B --dtype bfloat16 --verify
      the latest iteration that Megatron saved; config.json and the tokenizer come from --source
  {command} runs/sft/iter_0000500 models/at-500 --source models/Qwen3-8B
      another iteration
""",
    ),
}

_EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 a mistake in the input, 130 interrupted. docs/converter.md has more."
)


USAGE = Usage(
    description="Weights between Hugging Face folders and Megatron checkpoints, by one map of names and "
    "layouts. `paced convert DIRECTION --help` says more.",
    reads="INPUT: a Hugging Face folder or a model's name on the hub; or a Megatron distributed checkpoint",
    writes="OUT, whole or not at all",
    examples=(
        (
            "paced convert to-megatron models/Qwen3-8B checkpoints/qwen3-8b --verify",
            "read back and compared before the folder gets its name",
        ),
        ("paced convert to-hf runs/sft models/Qwen3-8B-sft --source models/Qwen3-8B", "and back"),
    ),
    exit_codes="0 done, 1 failed, 2 a mistake in the input, 130 interrupted",
)


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    text = "weights between Hugging Face folders and Megatron checkpoints"
    convert = verbs.add_parser("convert", help=text)
    explain(convert, USAGE)
    directions = convert.add_subparsers(dest="direction", required=True, metavar="DIRECTION")
    for name, direction in DIRECTIONS.items():
        _add_options(directions.add_parser(name, help=direction.help), name, f"paced convert {name}")


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """The command line of a file in tools/; returns the exit code."""
    parser = argparse.ArgumentParser()
    _add_options(parser, name, f"python tools/{DIRECTIONS[name].tool}")
    options = parser.parse_args(argv)
    try:
        return run(options, [])
    except UserError as error:
        print(f"{DIRECTIONS[name].tool}: {error}", file=sys.stderr)
        return USER_ERROR


def _add_options(parser: argparse.ArgumentParser, name: str, command: str) -> None:
    direction = DIRECTIONS[name]
    parser.description = f"{direction.help[0].upper()}{direction.help[1:]}. It appears whole or not at all."
    parser.epilog = f"examples:\n{direction.examples.format(command=command)}\n{_EXIT_CODES}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run, direction=name, command=command.removeprefix("python tools/"))
    parser.add_argument("input", type=Path, metavar="INPUT", help=direction.takes)
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?", help=direction.makes)
    parser.add_argument("--dtype", choices=DTYPES, help="round the weights; by default they keep every bit")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it is a model already")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read OUT back before it gets its name, compare every tensor bit for bit, and the logits of a "
        "prompt with transformers where the model fits into memory",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the map for this model, write nothing")
    for words in ("tensor", "pipeline"):
        parser.add_argument(
            f"--{words}-model-parallel-size",
            type=int,
            metavar="N",
            help="the layout for which --dry-run tells the ranks; what is written suits every layout",
        )
    if name == "to-hf":
        parser.add_argument(
            "--source",
            type=Path,
            metavar="FOLDER",
            help="a Hugging Face folder (or a name on the hub) of the same architecture, for config.json and "
            "the tokenizer; by default what the other direction left in the checkpoint",
        )


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Do what the options say; return the exit code.

    Raises:
        UserError: a mistake in the input.
    """
    layout = options.tensor_model_parallel_size, options.pipeline_model_parallel_size
    if not options.dry_run and options.out is None:
        raise UserError("OUT is missing: where shall it be written?")
    if not options.dry_run and layout != (None, None):
        raise UserError("a layout is for --dry-run alone: what is written suits every layout; leave it out")
    # Imported late: `--help` needn't wait for torch.
    from paced_megatron.models.convert_check import ConversionDiffers
    from paced_megatron.runtime.signals import termination_as_interrupt

    work = _dry_run if options.dry_run else _DIRECTIONS[options.direction]
    try:
        with termination_as_interrupt():
            work(options)
    except ConversionDiffers as error:
        print(f"{options.command}: {error}; nothing is left of {options.out}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{options.command}: interrupted; nothing is left of {options.out}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _to_megatron(options: argparse.Namespace) -> None:
    from paced_megatron.models.convert import to_megatron
    from paced_megatron.models.convert_check import check_conversion
    from paced_megatron.models.hub import local_folder
    from paced_megatron.progress import console_for, say

    console, dtype, source = console_for(0), _dtype(options), local_folder(options.input)

    def check(made: Path) -> None:
        check_conversion(made, source, config=source, made="checkpoint", dtype=dtype, console=console)

    to_megatron(
        source,
        options.out,
        dtype=dtype,
        replace=options.overwrite,
        check=check if options.verify else None,
        console=console,
    )
    say(console, f"{options.out}: written; Megatron takes it with --load {options.out}")


def _to_hf(options: argparse.Namespace) -> None:
    from paced_megatron.models.convert import open_checkpoint, to_hugging_face
    from paced_megatron.models.convert_check import check_conversion
    from paced_megatron.progress import console_for, say

    console, dtype = console_for(0), _dtype(options)
    _, source = open_checkpoint(options.input, _source(options))

    def check(made: Path) -> None:
        check_conversion(options.input, made, config=source, made="folder", dtype=dtype, console=console)

    to_hugging_face(
        options.input,
        options.out,
        source=source,
        dtype=dtype,
        replace=options.overwrite,
        check=check if options.verify else None,
        console=console,
    )
    say(console, f"{options.out}: written")


_DIRECTIONS = {"to-megatron": _to_megatron, "to-hf": _to_hf}


def _dry_run(options: argparse.Namespace) -> None:
    from paced_megatron.models.convert import find_tensors, open_checkpoint
    from paced_megatron.models.convert_table import print_map
    from paced_megatron.models.families import check_layout, model_shape
    from paced_megatron.models.hub import local_folder
    from paced_megatron.models.weight_files import check_weights

    layout = options.tensor_model_parallel_size, options.pipeline_model_parallel_size
    tp, pp = (1 if size is None else size for size in layout)
    if min(tp, pp) < 1:
        raise UserError("a layout's sizes have to be 1 or more")
    if options.direction == "to-megatron":
        folder = local_folder(options.input)
        shape = model_shape(folder)
        if any(folder.glob("*.safetensors")):  # config.json alone is enough for the table
            check_weights(folder, shape)
    else:
        stored, folder = open_checkpoint(options.input, _source(options))
        shape = model_shape(folder)
        find_tensors(stored, shape)
    check_layout(shape, folder, tp, pp)
    print_map(shape, tp, pp)


def _source(options: argparse.Namespace) -> Path | None:
    from paced_megatron.models.hub import local_folder

    return None if options.source is None else local_folder(options.source)


def _dtype(options: argparse.Namespace) -> torch.dtype | None:
    import torch

    return None if options.dtype is None else getattr(torch, options.dtype)
