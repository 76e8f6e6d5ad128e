"""`paced check-rollout`: do SGLang, Megatron and transformers agree about a folder?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paced_megatron.commands.usage import Usage, explain
from paced_megatron.errors import UserError
from paced_megatron.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from paced_megatron.rollout.agreement import Agreement

USAGE = Usage(
    description="A server samples answers; the log-probabilities of their tokens under SGLang, Megatron and "
    "transformers are compared. docs/agreement.md says how to read the table.",
    reads="FOLDER, FILE, and a running server (SGLANG_API_KEY is its key, where it has one)",
    writes="nothing",
    examples=(
        (
            "paced check-rollout models/Qwen3-0.6B --url http://127.0.0.1:30000",
            "a server that was started with --model-path models/Qwen3-0.6B",
        ),
        (
            "paced check-rollout runs/mine/stage-1/hf --url http://gpu7:30000 --prompts questions.txt "
            "--tolerance 0.05",
            "with questions of your own, and a tolerance in nats",
        ),
    ),
    exit_codes="0 they agree, 1 they don't, 2 a mistake in the input",
)


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    check = verbs.add_parser(
        "check-rollout",
        help="does an SGLang server compute what Megatron and transformers compute from a folder?",
    )
    explain(check, USAGE)
    check.add_argument(
        "folder", type=Path, help="the Hugging Face folder whose weights the server should have"
    )
    check.add_argument("--url", required=True, help="the server, as in http://127.0.0.1:30000")
    check.add_argument("--prompts", type=Path, metavar="FILE", help="a text file, a question a line")
    check.add_argument(
        "--tolerance",
        type=float,
        metavar="NATS",
        help="the largest difference allowed; by default 1e-4 for a server in float32, more for bfloat16",
    )
    check.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Compare, and print a table; returns the exit code. Raises UserError."""
    if options.tolerance is not None and not options.tolerance > 0:
        raise UserError(f"--tolerance {options.tolerance:g}: has to be above 0")
    questions = None if options.prompts is None else _questions(options.prompts)
    # Imported late: `--help` needn't wait for torch.
    from paced_megatron.models.hub import local_folder
    from paced_megatron.rollout.agreement import QUESTIONS, measure_agreement
    from paced_megatron.rollout.sglang.client import ServerClient, ServerError
    from paced_megatron.rollout.sglang.launcher import KEY_VARIABLE

    client = ServerClient(options.url, os.environ.get(KEY_VARIABLE) or None)
    try:
        agreement = measure_agreement(
            local_folder(options.folder), client, questions or QUESTIONS, tolerance=options.tolerance
        )
    except ServerError as error:
        raise UserError(f"--url {options.url}: {error}") from error
    finally:
        client.close()
    _print(agreement, options)
    return DONE if agreement.agrees else FAILED


def _questions(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise UserError(f"--prompts {path}: can't be read ({reason})") from None
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise UserError(f"--prompts {path}: no line with a question in it")
    return questions


def _print(agreement: Agreement, options: argparse.Namespace) -> None:
    from rich.table import Table

    from paced_megatron.progress import console_for, say

    console = console_for(0)
    tokens = sum(map(len, agreement.answers))
    say(
        console,
        f"{options.folder} against {options.url} (weights {agreement.weight_version!r}, {agreement.dtype}): "
        f"log-probabilities of {tokens} sampled tokens, in nats",
    )
    table = Table("", "largest", "mean", "bound", "where it is largest", box=None, pad_edge=False)
    for difference in agreement.differences:
        table.add_row(
            " - ".join(difference.pair),
            f"{difference.largest:.2g}",
            f"{difference.mean:.2g}",
            f"{difference.bound:g}{'' if difference.agrees else '  exceeded'}",
            f"answer {difference.text + 1}, token {difference.position + 1} (id {difference.token_id})",
        )
    console.print(table)
    for line in meaning(agreement):
        say(console, line)


def meaning(agreement: Agreement) -> list[str]:
    """What the numbers say, in words."""
    apart = {difference.pair for difference in agreement.differences if not difference.agrees}
    lines = [agreement.left_out] if agreement.left_out else []
    if ("Megatron", "transformers") in apart:
        lines.append(
            "Megatron and transformers compute different models from this folder: the map of weights or the "
            "translation of config.json is wrong (models/). Don't train with it."
        )
    if ("SGLang", "transformers") in apart:
        lines.append(
            "The server does not have this folder's weights, or computes another model: weights of another "
            "version, a cache that is older than they are, or another config.json. Where the difference is a "
            "little above the bound, it may be the server's arithmetic (its dtype, its attention)."
        )
    if agreement.template:
        lines.append(f"Tokenizer or chat template: {agreement.template}.")
    if agreement.template is None:
        lines.append("Tokenizer and chat template: not compared; the server does not tell its own.")
    if agreement.agrees:
        lines.append("They agree: one model.")
    return lines
