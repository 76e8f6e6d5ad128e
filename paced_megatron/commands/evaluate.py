"""`paced evaluate`: the phase of a run, or models on benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paced_megatron.commands import phases
from paced_megatron.commands.forgetting import add_forgetting
from paced_megatron.commands.options import add_skip_memory_check
from paced_megatron.commands.usage import Usage, explain
from paced_megatron.errors import UserError
from paced_megatron.evaluation.presets import DEFAULT, PRESETS, in_words
from paced_megatron.runtime.signals import listening

PHASE = phases.Verb(
    phases.phase("evaluate_after"),
    "accuracy of the exported student on held-out problems (evaluation.json)",
    turns="evaluation",
    begins=False,
)
YAML = (".yaml", ".yml")
SEED, BATCH_SIZE = 1234, 64
# Those of folders alone whose default is none.
NONE_BY_DEFAULT = (
    "benchmark",
    "data",
    "field",
    "attempts",
    "pass_at",
    "max_new_tokens",
    "thinking",
    "prompts_of",
    "limit",
    "out",
    "url",
    "launch",
    "forgetting",
    "forgetting_fewshot",
    "forgetting_include_path",
)
# Those of folders alone -> their default.
FOR_FOLDERS: dict[str, object] = {
    **dict.fromkeys(NONE_BY_DEFAULT),
    "preset": DEFAULT,
    "seed": SEED,
    "batch_size": BATCH_SIZE,
    "launch_args": "",
}
USAGE = Usage(
    description="Of a run's YAML: accuracy of the exported student on the held-out problems, as `paced run` "
    "has it. Of the folders of models or runs (a run stands for its last stage's student): avg@k, pass@k and "
    "maj@k on benchmarks, with intervals over problems, and lm-eval's tasks; of several folders also their "
    "differences, paired by problem. Started again it goes on, and asks no model for what is there. "
    "docs/evaluation.md says how to read the numbers.",
    reads="of a YAML: it, its problems, stage-N/hf/. Of folders: they, benchmarks by name from --data or the "
    "hub, files of problems",
    writes="of a YAML: evaluation.json and the attempts that it is made of. Of folders: TARGET/evaluation, "
    "and for several ./evaluations/ with results.md and results.json (--out: another place)",
    examples=(
        (
            "paced evaluate examples/quickstart/quickstart.yaml --stage 1",
            "a phase of a run, after the first stage",
        ),
        (
            "paced evaluate runs/lr3 --benchmark math500 --benchmark aime2024 --data benchmarks",
            "a run's student, with benchmarks/math500.jsonl in place of the hub",
        ),
        (
            "paced evaluate models/Qwen3-1.7B runs/lr3 --benchmark aime2024 --attempts 32 --pass-at 1,8,32 "
            "--launch /opt/sglang/bin/python",
            "before and after, by an SGLang server that is started for it",
        ),
        (
            "paced evaluate models/Qwen3-1.7B runs/lr3 --forgetting mmlu --forgetting-fewshot 5",
            "what the run's student has forgotten, by lm-eval",
        ),
    ),
)


def _presets() -> str:
    rows = (
        f"  {name:<8} avg@{preset.attempts}, {in_words(preset.sampling, preset.thinking)} ({preset.source})"
        for name, preset in PRESETS.items()
    )
    return "\n".join(["presets:", *rows])


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    command = verbs.add_parser(
        "evaluate",
        help="accuracy of a run's student (evaluation.json), or of any models on benchmarks",
    )
    explain(command, USAGE)
    command.epilog = f"{_presets()}\n\n{command.epilog}"
    command.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="a run's YAML (key=value behind it replaces a key), or folders of models or runs",
    )
    command.add_argument("--stage", type=int, metavar="N", help="of a YAML: only stage N (default: all)")
    add = command.add_argument_group("of folders").add_argument
    add(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="math500, aime2024, aime2025, or a file of problems with answers; may be repeated",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="where files of benchmarks are ($PACED_BENCHMARKS; else the hub)",
    )
    add(
        "--field",
        action="append",
        default=[],
        metavar="OURS=COLUMN",
        help="a column of FILE that is not called id, problem, answer; may be repeated",
    )
    add("--preset", default=DEFAULT, metavar="NAME", help=f"how attempts are sampled (default: {DEFAULT})")
    add("--attempts", type=int, metavar="K", help="attempts at each problem, in place of the preset's")
    add("--pass-at", type=_numbers, default=(), metavar="K,...", help="pass@k and maj@k for these k")
    add("--max-new-tokens", type=int, metavar="N", help="tokens of an answer, in place of the preset's")
    add(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="enable_thinking of the chat template, in place of the preset's",
    )
    add(
        "--prompts-of",
        type=Path,
        metavar="RUN|YAML",
        help="ask and score as this run does: its problems.prompts and problems.verifier",
    )
    add("--limit", type=int, metavar="N", help="only the first N problems of each benchmark")
    add("--seed", type=int, default=SEED, metavar="N", help=f"of the attempts (default: {SEED})")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="for the results (default: TARGET/evaluation, and ./evaluations)",
    )
    add(
        "--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="attempts at a time, without a server"
    )
    server = command.add_mutually_exclusive_group()
    server.add_argument(
        "--url", metavar="URL", help="an SGLang server; it is given the weights of each folder in turn"
    )
    server.add_argument(
        "--launch",
        type=Path,
        metavar="PYTHON",
        help="start an SGLang server by this interpreter, for as long",
    )
    command.add_argument(
        "--launch-args", default="", metavar="TEXT", help="of that server beside model, host and port"
    )
    add_skip_memory_check(command)
    add_forgetting(command)
    command.set_defaults(run=run)


def _refuse_those_for_folders(options: argparse.Namespace, config: str) -> None:
    """Raise UserError for the first of them that was given; a phase would go its own way without a word."""
    for name, default in FOR_FOLDERS.items():
        if getattr(options, name) not in (default, [], ()):
            raise UserError(
                f"--{name.replace('_', '-')} is for folders; {config} has keys for that (problems.test, "
                "evaluation.*), which key=value replaces"
            )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers with commas between, as 1,4,8") from None


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """The phase, or the models; returns the exit code. Raises UserError."""
    first, *rest = options.targets
    if Path(first).suffix.lower() in YAML:
        _refuse_those_for_folders(options, first)
        return phases.run_verb(PHASE, Path(first), rest, options.stage, argv, options.skip_memory_check)
    if options.stage is not None:
        raise UserError("--stage is for a run's YAML; name the folder stage-N/hf of a run instead")
    # Imported late: `--help` and a phase needn't wait.
    from paced_megatron.commands.evaluate_folders import evaluate_folders

    with listening():
        return evaluate_folders(options)
