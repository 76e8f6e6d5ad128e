"""`paced evaluate FOLDER...`: from the command line to tables. Everything that can be wrong with what was
asked for is found here, before a model is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from paced_megatron.commands.forgetting import check_forgetting, evaluate_forgetting
from paced_megatron.config import LaunchConfig, PromptConfig, RolloutConfig, VerifierConfig
from paced_megatron.config.io import load_config, recorded_config
from paced_megatron.errors import UserError
from paced_megatron.evaluation.benchmarks import BENCHMARKS, ProblemList, is_row, read_benchmark
from paced_megatron.evaluation.comparison import (
    DEFINITIONS,
    heading,
    terminal_outcomes,
    terminal_table,
    write_comparison,
)
from paced_megatron.evaluation.evaluate import evaluate, say_warnings
from paced_megatron.evaluation.measurement import Measurement
from paced_megatron.evaluation.memory import check_memory
from paced_megatron.evaluation.targets import Target, find_targets
from paced_megatron.evaluation.task import Protocol, Task, make_protocol, make_task
from paced_megatron.exit_codes import DONE
from paced_megatron.models.families import model_shape
from paced_megatron.models.identity import fingerprint
from paced_megatron.problems.tokenizer import load_tokenizer
from paced_megatron.progress import console_for, say, warn
from paced_megatron.rollout.engines import EngineSetting, JobEngine
from paced_megatron.rollout.sglang.client import ServerClient, ServerError
from paced_megatron.rollout.sglang.facts import check_serves, read_facts
from paced_megatron.rollout.sglang.launcher import KEY_VARIABLE
from paced_megatron.runtime.signals import stop_if_asked


def evaluate_folders(options: argparse.Namespace) -> int:
    """Measure, write and show; returns the exit code. Raises UserError, before any model is loaded."""
    if not options.benchmark and not options.forgetting:
        raise UserError(
            f"--benchmark is missing ({', '.join(BENCHMARKS)}, or a file of problems), or --forgetting TASK"
        )
    console = console_for(0)
    protocol = _protocol(options)
    benchmarks = _benchmarks(options)
    targets = find_targets([Path(target) for target in options.targets])
    out = options.out or (targets[0].results if len(targets) == 1 else Path("evaluations"))
    setting = _engine(options, targets, out, console)
    tasks = _tasks(options, targets, benchmarks, protocol)
    check_forgetting(options)
    tasks = _fingerprinted(tasks)

    def before_loading(missing: Iterator[Task]) -> None:
        if setting.rollout.engine == "embedded":
            for line in check_memory(missing, options.batch_size, options.skip_memory_check):
                warn(console, f"warning: {line}")

    if tasks:
        with JobEngine(setting) as engines:
            measurements = evaluate(tasks, engines, console, before_loading)
        _show(measurements, write_comparison(out, measurements), console)
    folders = {target.name: target.folder for target in targets}
    evaluate_forgetting(options, folders, out, console, stop_if_asked)
    return DONE


def _protocol(options: argparse.Namespace) -> Protocol:
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: has to be at least 1")
    return make_protocol(
        options.preset,
        attempts=options.attempts,
        max_new_tokens=options.max_new_tokens,
        thinking=options.thinking,
        pass_at=options.pass_at,
        seed=options.seed,
    )


def _benchmarks(options: argparse.Namespace) -> list[ProblemList]:
    fields = dict(pair.partition("=")[::2] for pair in options.field)
    for name, column in fields.items():
        if not (name and column):
            raise UserError(f"--field {name}: is written OURS=COLUMN, as in problem=question")
    if fields and all(is_row(name) for name in options.benchmark):
        raise UserError("--field is for a file of problems; these benchmarks have their own columns")
    read = [read_benchmark(name, options.data, fields, options.limit) for name in options.benchmark]
    names = [one.name for one in read]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--benchmark {name}: two of this name; rename a file or evaluate them one by one"
            )
    if options.prompts_of is None:
        return read
    prompts, verifier = _asked_as_by(options.prompts_of)
    return [replace(one, prompts=prompts, verifier=verifier) for one in read]


def _asked_as_by(run: Path) -> tuple[PromptConfig, VerifierConfig]:
    """A run's prompts and verifier, by its folder or its YAML."""
    if run.is_dir():
        if not (run / "config.yaml").is_file():
            raise UserError(f"--prompts-of {run}: not a run's folder (no config.yaml in it)")
        config = recorded_config(run / "config.yaml")
    else:
        config = load_config(run, [])
    return config.problems.prompts, config.problems.verifier


def _tasks(
    options: argparse.Namespace,
    targets: Sequence[Target],
    benchmarks: Sequence[ProblemList],
    protocol: Protocol,
) -> list[Task]:
    """Each model on each benchmark, its weights still to be read. Everything about them that can be wrong is
    found here."""
    engine = "sglang" if options.url or options.launch else "embedded"
    tasks: list[Task] = []
    for target in targets if benchmarks else ():
        out = target.results if options.out is None else options.out
        if options.out is not None and len(targets) > 1:
            out = options.out / target.name
        tokenizer = load_tokenizer(target.folder, benchmarks[0].prompts)
        tasks += [
            make_task(target, one, protocol, tokenizer=tokenizer, weights="", engine=engine, out=out)
            for one in benchmarks
        ]
    return tasks


def _fingerprinted(tasks: Sequence[Task]) -> list[Task]:
    """Last, since it reads every byte of the models."""
    weights = {target: fingerprint(target.folder) for target in dict.fromkeys(task.target for task in tasks)}
    return [replace(task, weights=weights[task.target]) for task in tasks]


def _engine(
    options: argparse.Namespace, targets: Sequence[Target], out: Path, console: Console
) -> EngineSetting:
    """How the engine is made; a server that runs is looked at, and nothing is loaded."""
    rollout = RolloutConfig(batch_size=options.batch_size)
    if options.launch_args and options.launch is None:
        raise UserError(
            f"--launch-args {options.launch_args!r} is for the server that --launch PYTHON starts"
        )
    if options.url is not None:
        rollout = replace(rollout, engine="sglang", urls=[options.url])
        _check_server(options.url, targets)
    elif options.launch is not None:
        if not os.access(options.launch, os.X_OK) or options.launch.is_dir():
            raise UserError(f"--launch {options.launch}: not an interpreter that can be run")
        rollout = replace(
            rollout, engine="sglang", launch=LaunchConfig(python=options.launch, args=options.launch_args)
        )
    return EngineSetting(
        rollout,
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        student=targets[0].folder,
        teacher=targets[0].folder,
        logs=out / "logs",
        say=lambda text: warn(console, text),
        check=lambda: stop_if_asked("what was made before is kept"),
    )


def _check_server(url: str, targets: Sequence[Target]) -> None:
    """It answers, and can take the weights of every target."""
    client = ServerClient(url, (os.environ.get(KEY_VARIABLE) or "").strip() or None)
    try:
        facts = read_facts(client)
        for target in targets:
            check_serves(client, facts, model_shape(target.folder), target.folder)
    except (ServerError, UserError) as error:
        raise UserError(f"--url {url}: {error}") from error
    finally:
        client.close()


def _show(measurements: Sequence[Measurement], files: Sequence[Path], console: Console) -> None:
    for line in heading(measurements):
        say(console, line)
    console.print(terminal_table(measurements))
    for line in [DEFINITIONS, *terminal_outcomes(measurements)]:
        say(console, line)
    say_warnings(measurements, console)
    for file in files:
        say(console, f"results: {file}")
