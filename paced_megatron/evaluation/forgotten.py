"""Measurements by lm-eval's tasks as files, and what was forgotten between two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.experiments.intervals import NORMAL_QUANTILE, deviation, interval, mean
from paced_megatron.runtime.files import read_jsonl, write_atomically

_ROUNDING = 1e-9


@dataclass(frozen=True)
class TaskRow:
    """One number of a task.

    Attributes:
        task: the task, or the group of tasks, that the number belongs to.
        metric: lm-eval's name; with a filter of its own behind a comma.
        value, standard_error: as lm-eval gives them; None where it gives no error.
        documents: how many the value is of.
        num_fewshot: examples before each question, as they were used; None where a group's tasks differ.
        higher_is_better: whether a higher value is a better student.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    documents: int
    num_fewshot: int | None
    higher_is_better: bool = True


@dataclass(frozen=True)
class TaskMeasurement:
    """A student's numbers on one task.

    Attributes:
        task: as it was asked for: a task, a group or a tag of lm-eval.
        num_fewshot, limit: as they were asked for; None: as the task says, and all documents.
        weights: identity of the student's weights (`models.identity.weights_identity`).
        cut_requests: how many contexts were longer than the model's, and were cut on their left.
        rows: the numbers.
        scores: "task/document" -> metric -> the document's score.
        tokenizer: identity of what makes its prompts ids (`models.identity.tokenizer_identity`); None in a
            file from before there was this field, which counts as of the same tokenizer.
    """

    task: str
    num_fewshot: int | None
    limit: int | None
    weights: str
    lm_eval_version: str
    cut_requests: int
    rows: Sequence[TaskRow]
    scores: dict[str, dict[str, float]]
    tokenizer: str | None = None

    def same_question(self, other: TaskMeasurement) -> bool:
        """Whether a difference of the two says something about the students."""
        return self._asked() == other._asked()

    def is_of(self, num_fewshot: int | None, limit: int | None, weights: str, tokenizer: str) -> bool:
        """Whether this is what would be measured again, by whichever lm-eval."""
        same = (self.num_fewshot, self.limit, self.weights) == (num_fewshot, limit, weights)
        return same and self.tokenizer in (None, tokenizer)

    def _asked(self) -> tuple[Any, ...]:
        return (self.task, self.num_fewshot, self.limit, self.lm_eval_version)


@dataclass(frozen=True)
class Forgotten:
    """How much worse a student has become in one number.

    Attributes:
        before, after: the number's two values.
        forgotten: before - after (after - before where lower is better), so that a loss is positive; as a
            share where the values are shares.
        standard_error, interval: of `forgotten`, the interval of 95 %. Over the differences of the documents
            where `paired` is true; else from the two standard errors, as if the documents were not the same.
            The interval is None without standard errors, and where all documents lost the same.
    """

    task: str
    metric: str
    before: float
    after: float
    forgotten: float
    standard_error: float | None
    interval: tuple[float, float] | None
    documents: int
    paired: bool


def forgotten(before: TaskMeasurement, after: TaskMeasurement) -> list[Forgotten]:
    """What was forgotten from one measurement to the next, a row per number that both have."""
    later = {(row.task, row.metric): row for row in after.rows}
    return [
        _forgotten(before, after, row, later[row.task, row.metric])
        for row in before.rows
        if (row.task, row.metric) in later
    ]


def _forgotten(before: TaskMeasurement, after: TaskMeasurement, row: TaskRow, later: TaskRow) -> Forgotten:
    sign = 1 if row.higher_is_better else -1
    pairs = _pairs(before, after, row, later)
    difference = sign * (row.value - later.value)
    if pairs is not None:
        losses = [sign * (one - two) for one, two in pairs]
        spread = deviation(losses)
        error = None if spread is None else spread / math.sqrt(len(losses))
        within = interval(losses)
    elif row.standard_error is None or later.standard_error is None:
        error, within = None, None
    else:
        error = math.hypot(row.standard_error, later.standard_error)
        within = (difference - NORMAL_QUANTILE * error, difference + NORMAL_QUANTILE * error)
    paired = pairs is not None
    return Forgotten(
        row.task, row.metric, row.value, later.value, difference, error, within, row.documents, paired
    )


def _pairs(
    before: TaskMeasurement, after: TaskMeasurement, row: TaskRow, later: TaskRow
) -> list[tuple[float, float]] | None:
    """The documents' scores before and after; None where a value is not their mean (a group's may be a mean
    of its tasks', a perplexity is none at all) or they are not of the same documents."""
    scores = [_of(one, row) for one in (before, after)]
    if not scores[0] or scores[0].keys() != scores[1].keys():
        return None
    for of_documents, value in zip(scores, (row.value, later.value), strict=True):
        if abs(mean(list(of_documents.values())) - value) > _ROUNDING:
            return None
    return [(scores[0][name], scores[1][name]) for name in scores[0]]


def _of(measurement: TaskMeasurement, row: TaskRow) -> dict[str, float]:
    """Document -> score, of the documents behind a row."""
    return {
        name: scores[row.metric]
        for name, scores in measurement.scores.items()
        if row.metric in scores and row.task in (measurement.task, name.rpartition("/")[0])
    }


def in_words(one: Forgotten) -> str:
    """One line: the number before and after, and how much is gone."""
    if one.interval is None and one.paired and one.documents > 1:
        surely = f"no interval: the same on each of {one.documents} documents"
    elif one.interval is None:
        surely = "no interval: lm-eval gives no standard error"
    else:
        how = "paired" if one.paired else "not paired"
        low, high = (100 * bound for bound in one.interval)
        surely = f"95 % interval {low:+.2f} to {high:+.2f}, {how} over {one.documents} documents"
    return (
        f"forgetting, {one.task}: {one.metric} {one.before:.4f} before, {one.after:.4f} after; "
        f"{100 * one.forgotten:+.2f} points forgotten ({surely})"
    )


def row_in_words(row: TaskRow) -> str:
    """One line: a number and how sure it is."""
    error = "" if row.standard_error is None else f" ± {row.standard_error:.4f} (standard error)"
    return f"{row.task}: {row.metric} {row.value:.4f}{error} over {row.documents} documents"


def write_measurement(path: Path, measurement: TaskMeasurement) -> None:
    """A line that says what was measured, then a line per document; the file appears whole."""
    head = asdict(measurement)
    lines = [head, *({"document": name} | scores for name, scores in head.pop("scores").items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_measurement(path: Path) -> TaskMeasurement | None:
    """What `write_measurement` wrote; None where there is no file. Raises UserError for another file."""
    if not path.exists():
        return None
    try:
        head, *documents = read_jsonl(path)
        rows = [TaskRow(**row) for row in head.pop("rows")]
        scores = {line.pop("document"): line for line in documents}
        return TaskMeasurement(**head, rows=rows, scores=scores)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a measurement of this version ({error}); remove it to measure again"
        ) from None


def write_summary(
    path: Path, measured: Sequence[tuple[tuple[int, int], TaskMeasurement]], lost: Sequence[Forgotten]
) -> None:
    """forgetting.json: a row per number and student, and the differences from the first to the last.

    Args:
        measured: (stage, step) of each measurement, and the measurement.
        lost: what `forgotten` gives.
    """
    rows = [
        {"stage": stage, "step": step, **asdict(row)}
        | {"limit": one.limit, "cut_requests": one.cut_requests}
        | {"weights": one.weights, "lm_eval_version": one.lm_eval_version}
        for (stage, step), one in measured
        for row in one.rows
    ]
    content = {"rows": rows, "forgotten": [asdict(one) for one in lost]}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
