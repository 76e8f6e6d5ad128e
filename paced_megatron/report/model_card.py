"""README.md of an exported student: what it is, from what, how good, and how to make it again.

The form is that of the Hugging Face hub: YAML between two lines of dashes, then Markdown. No path of this
machine comes into it: a folder is called by its name, a model or data set of the hub by that of the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import paced_megatron
from paced_megatron.config import Config
from paced_megatron.config.io import config_to_dict
from paced_megatron.evaluation.accuracy import EvaluationRow
from paced_megatron.experiments.intervals import ROUNDING, t_quantile
from paced_megatron.models.hub import is_hub_id
from paced_megatron.report.formulas import kernel_formula
from paced_megatron.runtime.files import write_atomically

MARKER = "<!-- Written by paced_megatron, which writes it again as long as this line is here. -->"
CARD = "README.md"
# Of the configuration: where and on what this machine ran, which nobody else can use.
_LEFT_OUT = {"rollout": ("urls", "teacher_urls", "launch"), "logging": None, "run_dir": None}
# Keys whose value is a text, though it may begin as a path does: Qwen3's "/no_think".
_TEXTS = ("system_prompt", "template", "answer_marker")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Data:
    """A row of the card's table of data.

    Attributes:
        purpose: "training", "test" or "forgetting".
        name: the file's name, or the data set's on the hub.
        problems: how many there are of it.
        sha256: of the file; None where it is no single file.
    """

    purpose: str
    name: str
    problems: int
    sha256: str | None


def model_card(
    config: Config,
    stage: int,
    *,
    data: Sequence[Data],
    last_step: int | None,
    rows: Sequence[EvaluationRow],
    forgetting: Mapping[str, Any],
    environment: Mapping[str, Any],
    license: str | None = None,
) -> str:
    """The card of the student after a stage, as text.

    Args:
        last_step: of the stage's training; None where it is not known.
        rows: of evaluation.json; those of the first student and of this one are shown.
        forgetting: forgetting.json's content; shown in the last stage's card. Empty where there is none.
        environment: environment.json's content.
        license: of the student with which the run began, where its card says.
    """
    student, teacher = public_name(config.student.path), _teacher(config)
    is_last = stage == len(config.stages)
    lost = list(forgetting.get("forgotten", [])) if is_last else []
    environment_of_pages = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, autoescape=False
    )  # Markdown; what comes in is escaped by `_cell`
    text = environment_of_pages.get_template("model_card.md").render(
        header=_header(config, data, license),
        marker=MARKER,
        title=f"{student}, distilled with PACED",
        version=environment.get("paced_megatron", paced_megatron.__version__),
        kernel=kernel_formula(config.pacing),
        student=_cell(student),
        teacher=_cell(teacher),
        license=license,
        stage=stage,
        stages=[
            _stage_row(one) | {"budget": config.budget(number)}
            for number, one in enumerate(config.stages, start=1)
        ],
        attempts=config.rollout.attempts,
        pacing=config.pacing,
        training=config.training,
        seed=config.seed,
        data=[Data(row.purpose, _cell(row.name), row.problems, row.sha256) for row in data],
        accuracies=_accuracies(rows, stage, last_step),
        forgotten=[_lost_row(row, forgetting["rows"]) for row in lost],
        paired=all(row["paired"] for row in lost),
        lm_eval_version=forgetting["rows"][0]["lm_eval_version"] if lost else "",
        versions=_versions(environment),
        recipe=public_recipe(config),
    )
    return text.rstrip() + "\n"


def write_card(folder: Path, text: str) -> bool:
    """Write README.md, unless there is one that is not ours, or the same; whether it was written."""
    path = folder / CARD
    if path.exists():
        there = path.read_bytes()
        if MARKER.encode() not in there or there == text.encode():
            return False
    write_atomically(path, text)
    return True


def license_of(folder: Path) -> str | None:
    """The license that a model's own card names; None where there is no card, or it names none."""
    try:
        found = ModelCard.load(folder / CARD).data.to_dict().get("license")
    except Exception:  # somebody else's file: whatever is wrong with it, it names no license
        return None
    return found if isinstance(found, str) else None


def public_name(path: Path | str) -> str:
    """A model's or data set's name on the hub, or that of its folder or file without the way to it."""
    text = str(path).removeprefix("hf://").partition("?")[0]
    return text if is_hub_id(text) and not str(path).startswith("/") else Path(text).name


def public_recipe(config: Config) -> str:
    """The configuration as YAML, without servers, and with names in the place of absolute paths."""
    tree = config_to_dict(config)
    for section, keys in _LEFT_OUT.items():
        for key in keys or ():
            tree[section].pop(key)
        if keys is None:
            tree.pop(section)
    return yaml.safe_dump(_named(tree), sort_keys=False, allow_unicode=True, width=110).rstrip()


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _TEXTS else _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "hf:///")) and "\n" not in value:
        return Path(value).name
    return value


def _header(config: Config, data: Sequence[Data], license: str | None) -> str:
    """The YAML that the hub reads; what is not known, or isn't on the hub, is left out of it."""
    base = str(config.student.path)
    sources = {str(source) for source in (config.problems.train, config.problems.test) if source}
    on_hub = sorted(public_name(source) for source in sources if source.startswith("hf://"))
    divergences = dict.fromkeys(stage.divergence for stage in config.stages)
    return ModelCardData(
        base_model=base if is_hub_id(base) else None,
        base_model_relation="finetune" if is_hub_id(base) else None,
        datasets=[name for name in on_hub if is_hub_id(name)] or None,
        library_name="transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["paced", "distillation", "megatron-core", *(name.replace("_", "-") for name in divergences)],
    ).to_yaml()


def _teacher(config: Config) -> str:
    if config.teacher.path is not None:
        return public_name(config.teacher.path)
    return "itself"


def _stage_row(stage: Any) -> dict[str, Any]:
    parameter = "" if stage.divergence_parameter is None else f" ({stage.divergence_parameter:g})"
    return {
        "text": stage.text,
        "divergence": f"`{stage.divergence}`{parameter}",
        "teacher": stage.teacher,
    }


def _accuracies(rows: Sequence[EvaluationRow], stage: int, step: int | None) -> list[dict[str, Any]]:
    """A row per problem set and decoding of this student; `before` is the run's first student."""
    by_key = {row.key: row for row in rows}
    return [
        {
            "problem_set": row.problem_set,
            "decoding": row.decoding,
            "attempts": row.attempts,
            "problems": row.problems,
            "before": _accuracy(by_key.get((1, 0, row.problem_set, row.decoding))),
            "after": _accuracy(row),
        }
        for row in rows
        if (row.stage, row.step) == (stage, step)
    ]


def _accuracy(row: EvaluationRow | None) -> str:
    """In %, with mean -+ t SE over the row's problems (the report's interval is a bootstrap of its attempts).

    No interval where all problems are alike, as everywhere: one of no width would claim certainty.
    """
    if row is None:
        return "–"
    value = f"{100 * row.accuracy:.1f} %"
    if row.problems < 2 or row.standard_error is None or row.standard_error < ROUNDING:
        return value
    half = t_quantile(row.problems - 1) * row.standard_error
    low, high = max(0.0, row.accuracy - half), min(1.0, row.accuracy + half)
    return f"{value} ({100 * low:.1f} to {100 * high:.1f})"


def _lost_row(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table of what was forgotten; `rows` tell with how many examples."""
    examples = next(one["num_fewshot"] for one in rows if one["task"] == row["task"])
    within = row["interval"]
    interval = "" if within is None else f" ({within[0]:+.4f} to {within[1]:+.4f})"
    return {
        "task": _cell(row["task"]),
        "metric": _cell(row["metric"]),
        "num_fewshot": "differs" if examples is None else examples,
        "documents": row["documents"],
        "before": f"{row['before']:.4f}",
        "after": f"{row['after']:.4f}",
        "forgotten": f"{row['forgotten']:+.4f}{interval}",
    }


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    names = ("paced_megatron", "commit", "python", "system")
    return {name: str(environment[name]) for name in names if name in environment} | {
        str(name): str(value) for name, value in environment.get("packages", {}).items()
    }


def _cell(text: str) -> str:
    """A name in a table or a line of Markdown, as it is."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
