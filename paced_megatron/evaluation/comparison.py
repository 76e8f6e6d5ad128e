"""Measurements side by side: one table as text for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from paced_megatron.evaluation.estimates import Estimate, paired
from paced_megatron.evaluation.measurement import Measurement
from paced_megatron.evaluation.presets import in_words
from paced_megatron.problems.outcome import Outcome
from paced_megatron.rollout.engine import Sampling
from paced_megatron.runtime.files import write_atomically

MARKDOWN, JSON = "results.md", "results.json"
WORDS = ("benchmark", "metric", "model")  # columns that are no numbers
DEFINITIONS = (
    "In %, [95 % interval: a bootstrap over problems]. avg@k: the mean share of correct attempts; pass@k: at "
    "least one of k is correct; maj@k: the answer that most of k give is. Differences are paired by problem; "
    "one whose interval holds 0 is no finding."
)


@dataclass(frozen=True)
class Row:
    """A line of the table: one model's number, and how far it is from the first model's.

    Attributes:
        difference: paired by problem; None for the first model, and where there is nothing to compare.
    """

    benchmark: str
    metric: str
    target: str
    estimate: Estimate
    difference: Estimate | None


def rows(measurements: Sequence[Measurement]) -> list[Row]:
    """By benchmark, metric and model, in the order in which they come; all measured in the same way."""
    found = []
    for benchmark in dict.fromkeys(one.benchmark for one in measurements):
        models = [one for one in measurements if one.benchmark == benchmark]
        for metric in models[0].metrics:
            for model in models:
                difference = None
                if model is not models[0]:
                    difference = paired(models[0].by_problem[metric], model.by_problem[metric])
                found.append(Row(model.title, metric, model.target, model.metrics[metric], difference))
    return found


def heading(measurements: Sequence[Measurement]) -> list[str]:
    """How the numbers were made, a line for each benchmark."""
    lines = {}
    for one in measurements:
        thinking = one.prompts["chat_template_kwargs"].get("enable_thinking")
        changed = f"; changed: {', '.join(one.preset_changed)}" if one.preset_changed else ""
        part = "" if one.problems == one.total_problems else f" of {one.total_problems}"
        lines[one.benchmark] = (
            f"{one.title}: {one.problems}{part} problems x {one.attempts} attempts; preset {one.preset} "
            f"({one.preset_source}{changed}): {in_words(Sampling(**one.sampling), thinking)}; {one.engine}; "
            f"seed {one.seed}"
        )
    return list(lines.values())


def outcomes(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """How attempts ended, in shares, and how long they were, a record for each measurement."""
    return [
        {
            "benchmark": one.title,
            "target": one.target,
            **{kind.value: one.outcomes[kind.value] / sum(one.outcomes.values()) for kind in Outcome},
            "tokens": one.tokens / sum(one.outcomes.values()),
        }
        for one in measurements
    ]


def number(estimate: Estimate, signed: bool = False) -> str:
    """As in "41.3 [35.0, 47.8]", in %; a difference with its sign."""
    sign = "+" if signed else ""
    text = f"{100 * estimate.mean:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return f"{text} [-]"
    return f"{text} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _cells(measurements: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each line; without a column of differences for a single model."""
    several = len({one.target for one in measurements}) > 1
    first = measurements[0].target
    headings = ["benchmark", "metric", "model", "%", *([f"minus {first}"] if several else [])]
    lines = []
    for row in rows(measurements):
        line = [row.benchmark, row.metric, row.target, number(row.estimate)]
        if several:
            line.append("" if row.difference is None else number(row.difference, signed=True))
        lines.append(line)
    return headings, lines


def _outcome_cells(measurements: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    headings = ["benchmark", "model", *(kind.value.replace("_", " ") for kind in Outcome), "tokens"]
    lines = [
        [record["benchmark"], record["target"]]
        + [f"{100 * record[kind.value]:.1f}" for kind in Outcome]
        + [f"{record['tokens']:.0f}"]
        for record in outcomes(measurements)
    ]
    return headings, lines


def terminal_table(measurements: Sequence[Measurement]) -> Table:
    """The numbers."""
    headings, lines = _cells(measurements)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in headings:
        words = name in WORDS
        # Text stands as it is; of a str rich would take [x] in a model's name for markup.
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def terminal_outcomes(measurements: Sequence[Measurement]) -> list[str]:
    """How attempts ended, a line for each measurement."""
    lines = []
    for one, record in zip(measurements, outcomes(measurements), strict=True):
        shares = ", ".join(
            f"{100 * record[kind.value]:.1f} % {kind.value.replace('_', ' ')}"
            for kind in Outcome
            if record[kind.value]
        )
        lines.append(
            f"{one.title}, {one.target}: {sum(one.outcomes.values())} attempts, {shares}; "
            f"{record['tokens']:.0f} tokens each"
        )
    return lines


def markdown(measurements: Sequence[Measurement]) -> str:
    """The same for a document."""
    parts = [*(f"- {line}" for line in heading(measurements)), "", DEFINITIONS, ""]
    for headings, lines in (_cells(measurements), _outcome_cells(measurements)):
        parts.append(_line(headings))
        parts.append(_line(["---" if name in WORDS else "---:" for name in headings]))
        parts += [*map(_line, lines), ""]
    warnings = [f"{one.title}, {one.target}: {text}" for one in measurements for text in one.warnings]
    parts += [f"**Warning**: {warning}." for warning in warnings]
    return "\n".join(parts).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def as_json(measurements: Sequence[Measurement]) -> str:
    """{"rows": what the table shows, in [0, 1], "measurements": each as in its result.json, but for the
    problems' own numbers}."""
    whole = [asdict(one) for one in measurements]
    for one in whole:
        del one["by_problem"]
    return (
        json.dumps({"rows": [asdict(row) for row in rows(measurements)], "measurements": whole}, indent=1)
        + "\n"
    )


def write_comparison(out: Path, measurements: Sequence[Measurement]) -> list[Path]:
    """results.md and results.json in `out`; where they are."""
    out.mkdir(parents=True, exist_ok=True)
    files = {out / MARKDOWN: markdown(measurements), out / JSON: as_json(measurements)}
    for path, content in files.items():
        write_atomically(path, content)
    return list(files)
