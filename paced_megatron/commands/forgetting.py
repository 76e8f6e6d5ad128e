"""`--forgetting TASK` of `paced evaluate FOLDER...`: lm-eval's tasks on any Hugging Face folders."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from paced_megatron.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from paced_megatron.evaluation.forgetting_files import Asked

FLAG = "--forgetting"


def add_forgetting(command: argparse.ArgumentParser) -> None:
    """The arguments; `--limit` and `--batch-size` are the verb's own."""
    add = command.add_argument_group("of folders, what a student forgot (docs/forgetting.md)").add_argument
    add(
        FLAG,
        action="append",
        default=[],
        metavar="TASK",
        help="a task of lm-eval, e.g. mmlu; may be repeated; of several folders the first is `before`",
    )
    add("--forgetting-fewshot", type=int, metavar="N", help="examples before each question")
    add(
        "--forgetting-include-path",
        type=Path,
        metavar="DIR",
        help="a folder with tasks of your own, as lm-eval's YAML files",
    )


def check_forgetting(options: argparse.Namespace) -> None:
    """Load the tasks before any model. Raises UserError."""
    from paced_megatron.evaluation.forgetting import check_tasks

    fewshot, include_path = options.forgetting_fewshot, options.forgetting_include_path
    if not options.forgetting:
        if fewshot is not None or include_path is not None:
            raise UserError(f"--forgetting-fewshot and --forgetting-include-path are for {FLAG} TASK")
        return
    for task in options.forgetting:
        if options.forgetting.count(task) > 1:
            raise UserError(f"{FLAG} {task}: named twice")
    if fewshot is not None and fewshot < 0:
        raise UserError(f"--forgetting-fewshot {fewshot}: has to be at least 0")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: at least 1 document is needed")
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--forgetting-include-path {include_path}: no such folder")
    check_tasks(options.forgetting, include_path, FLAG)


def evaluate_forgetting(
    options: argparse.Namespace,
    folders: Mapping[str, Path],
    out: Path,
    console: Console,
    check: Callable[[str], None],
) -> None:
    """Measure every folder on every task, and say how each differs from the first.

    Args:
        folders: name -> Hugging Face folder; the first is `before`.
        out: where `forgetting/NAME-TASK.jsonl` are kept; what is there isn't made again.
        check: as `measure_missing` has it.

    Raises:
        UserError: `out` can't be written, or another process is at work in it; a file in it is broken.
    """
    if not options.forgetting:
        return
    import torch

    from paced_megatron.evaluation.forgetting_files import measure_missing, outdated
    from paced_megatron.evaluation.forgotten import forgotten, in_words, read_measurement, row_in_words
    from paced_megatron.progress import say

    files = {
        name: {task: out / "forgetting" / f"{name}-{task}.jsonl" for task in options.forgetting}
        for name in folders
    }
    with ExitStack() as held:
        _claim(out / "forgetting", held)

        def measure(name: str, again: Sequence[str]) -> None:
            measure_missing(
                f"{name}: lm-eval",
                files[name],
                _asked(options),
                folders[name],
                again,
                device="cuda" if torch.cuda.is_available() else "cpu",
                log=out / "logs" / "lm-eval.log",
                console=console,
                check=check,
            )

        for name in folders:
            measure(name, ())
        for name, again in zip(folders, outdated(list(files.values()), FLAG), strict=True):
            if again:
                measure(name, again)
    first, *others = folders
    for task in options.forgetting:
        before = read_measurement(files[first][task])
        assert before is not None, "it was measured above"
        for row in before.rows:
            say(console, f"{first}: {row_in_words(row)}")
        for name in others:
            after = read_measurement(files[name][task])
            assert after is not None, "it was measured above"
            assert before.same_question(after), "what could not be compared was measured again"
            for one in forgotten(before, after):
                say(console, f"{name} against {first}: {in_words(one)}")


def _claim(folder: Path, held: ExitStack) -> None:
    """The folder for this process alone."""
    from paced_megatron.runtime.run_lock import run_lock

    held.enter_context(run_lock(folder, "name a place for the results in --out"))


def _asked(options: argparse.Namespace) -> Asked:
    from paced_megatron.evaluation.forgetting_files import Asked

    return Asked(
        options.forgetting_fewshot, options.limit, options.batch_size, options.forgetting_include_path, FLAG
    )
