"""What a student still knows of other things: any task of lm-eval, on a Hugging Face folder or a server.

lm-eval (https://github.com/EleutherAI/lm-evaluation-harness) makes the prompts, the scores and the standard
errors; here its errors become lines that say what to do, and its results a `TaskMeasurement`. Its package is
an extra (`pip install 'paced-megatron[eval]'`), and is imported only when a task is asked for.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from paced_megatron.errors import UserError
from paced_megatron.evaluation.forgotten import TaskMeasurement, TaskRow
from paced_megatron.evaluation.lm_eval_process import BOOTSTRAP_DRAWS, alone, random_states_kept

KEY = "evaluation.forgetting_tasks"
NEEDED = {"lm_eval": "lm-eval", "accelerate": "accelerate"}  # module -> the package that has it
OFFLINE = (ConnectionError, FileNotFoundError)  # what `datasets` raises where it can't fetch a data set


def check_installed(where: str = KEY) -> None:
    """Raise UserError where lm-eval, or what its Hugging Face models need, is not there."""
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"{where} needs the package {package}: `pip install 'paced-megatron[eval]'`, or leave it out"
            )


def check_tasks(tasks: Sequence[str], include_path: Path | None = None, where: str = KEY) -> None:
    """Load every task with its data set, so that nothing is missing when the student is there.

    Args:
        tasks: names of lm-eval's tasks, groups or tags.
        include_path: a folder of YAML files of the user's own tasks.
        where: who asks for them, for the message.

    Raises:
        UserError: lm-eval is not installed, the folder is not there, a task is unknown or can't be loaded.
    """
    with _without_warnings():
        manager = _manager(tasks, include_path, where)
        for task in tasks:
            with _told(task, where):
                manager.load([task])


def measure_forgetting(
    folder: Path,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    include_path: Path | None = None,
    device: str = "cpu",
    url: str | None = None,
    weights: str = "",
    where: str = KEY,
    on_batch: Callable[[int], None] = lambda sequences: None,
    log: TextIO | None = None,
) -> Iterator[TaskMeasurement]:
    """Measure a student on each task, one after the other. Random states are as they were after it.

    Args:
        folder: a Hugging Face folder; with `url` only its tokenizer is read.
        tasks, include_path, where: as in `check_tasks`.
        num_fewshot: examples before each question; None: as the task says.
        limit: the first so many documents of each (sub)task; None: all.
        batch_size: sequences at once.
        device: where the model is put.
        url: an SGLang server (http://HOST:PORT) that serves this student; None: the folder is loaded.
        weights: identity of the weights, for the record.
        on_batch: called with the number of sequences before each forward pass; may raise to stop.
        log: where lm-eval's bars and warnings go; None: to stderr.

    Raises:
        UserError: as `check_tasks`; or the server can't be used.
    """
    with _heard(log):
        with random_states_kept():
            manager = _manager(tasks, include_path, where)
            model = _served(folder, url, batch_size) if url else _loaded(folder, device, batch_size, on_batch)
        for task in tasks:
            model.cut_requests = 0
            with random_states_kept():
                results = _evaluated(model, manager, task, num_fewshot, limit, where)
            yield TaskMeasurement(
                task=task,
                num_fewshot=num_fewshot,
                limit=limit,
                weights=weights,
                lm_eval_version=version("lm_eval"),
                cut_requests=model.cut_requests,
                rows=rows_of(task, results),
                scores=_scores(results["samples"]),
            )


def _manager(tasks: Sequence[str], include_path: Path | None, where: str) -> Any:
    """lm-eval's index of tasks. The 14,000 that come with it take seconds to read, and are left alone where
    all that is asked for is the user's own."""
    check_installed(where)
    if include_path is not None and not include_path.is_dir():
        raise UserError(
            f"{include_path}: no such folder; evaluation.forgetting_include_path names one of YAML files"
        )
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        if all(_is_own(task, own.task_index) for task in tasks):
            return own
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]}?" if near else "`lm-eval ls tasks` lists them"
            raise UserError(f"{where}: lm-eval {version('lm_eval')} has no task {task}; {hint}")
    return manager


def _is_own(task: Any, index: Mapping[str, Any]) -> bool:
    """Whether a task, and those of a group, are all in this index."""
    entry = index.get(task) if isinstance(task, str) else None
    if entry is None:
        return False
    members = (entry.cfg or {}).get("task", [])
    return isinstance(members, str) or all(_is_own(one, index) for one in members)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """lm-eval's hints for its own command line would stand above ours."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _told(task: str, where: str) -> Iterator[None]:
    """Raise UserError where the task's data can't be fetched, or its files can't be read."""
    try:
        yield
    except OFFLINE as error:
        raise UserError(
            f"{where}: the data of task {task} can't be fetched ({_line(error)}); start once where there is "
            "a network, with the same HF_HOME, or take a task of your own (forgetting_include_path)"
        ) from error
    except UserError:
        raise
    except Exception as error:  # a task is YAML, templates and code: anything may be wrong with it
        raise UserError(
            f"{where}: task {task} can't be loaded ({_line(error)}); mend its files, or leave it out"
        ) from error


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _heard(log: TextIO | None) -> Iterator[None]:
    with nullcontext() if log is None else redirect_stderr(log):
        yield


def _evaluated(
    model: Any, manager: Any, task: str, num_fewshot: int | None, limit: int | None, where: str
) -> Mapping[str, Any]:
    from lm_eval import simple_evaluate

    with _told(task, where):  # again: the data may have gone since the start
        loaded = manager.load([task])
    group = loaded.get("groups", {}).get(task)
    with alone():
        results = simple_evaluate(
            model=model,
            tasks=[group] if group else list(loaded["tasks"].values()),
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            task_manager=manager,
            log_samples=True,  # the documents' scores, for paired differences
        )
    assert results is not None, "one process, so this is rank 0"
    return results


def _loaded(folder: Path, device: str, batch_size: int, on_batch: Callable[[int], None]) -> Any:
    """The folder as lm-eval's HFLM. It is handed a model, since with a path it would ask accelerate, which
    would join the other ranks of a job."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    from paced_megatron.problems.tokenizer import load_tokenizer

    class Watched(HFLM):  # type: ignore[misc]
        """Says how far it has come, and counts what did not fit."""

        cut_requests = 0

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            on_batch(len(inps))
            return super()._model_call(inps, *args, **kwargs)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            # lm-eval cuts a context on its left until it fits, and says so in a log.
            lengths = [len(context) + len(answer) for _, context, answer in requests]
            self.cut_requests += sum(length > self.max_length + 1 for length in lengths)
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

    tokenizer = load_tokenizer(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    model.to(device).eval()
    return Watched(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def _served(folder: Path, url: str, batch_size: int) -> Any:
    """A server's /v1/completions, which gives the log-probabilities of a prompt's tokens."""
    from lm_eval.api.registry import get_model

    if importlib.util.find_spec("tenacity") is None:
        raise UserError(f"{url}: lm-eval needs the package tenacity for a server: `pip install tenacity`")
    return get_model("local-completions")(
        base_url=f"{url.rstrip('/')}/v1/completions",
        model=str(folder),
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        max_retries=1,
    )


def rows_of(task: str, results: Mapping[str, Any]) -> list[TaskRow]:
    """The task's numbers: a group's own where it has them, else those of each of its tasks."""
    group = results.get("groups", {}).get(task, {})
    tables = {task: group} if any("," in key for key in group) else results["results"]
    rows = []
    for name, table in tables.items():
        better = results["higher_is_better"].get(name, {})
        for key, value in table.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = table.get(f"{metric}_stderr,{filter_name}")
            rows.append(
                TaskRow(
                    task=name,
                    metric=_metric(metric, filter_name),
                    value=float(value),
                    standard_error=float(error) if isinstance(error, int | float) else None,
                    documents=int(table["sample_len"]),
                    num_fewshot=results["n-shot"].get(name),
                    higher_is_better=better.get(metric) is not False,
                )
            )
    return rows


def _metric(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _scores(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """task/document -> metric -> score, for the metrics that give a document one number."""
    scores: dict[str, dict[str, float]] = {}
    for task, documents in samples.items():
        for sample in documents:
            of_document = scores.setdefault(f"{task}/{sample['doc_id']}", {})
            for metric in sample["metrics"]:
                if isinstance(sample[metric], int | float):
                    of_document[_metric(metric, sample["filter"])] = float(sample[metric])
    return scores
