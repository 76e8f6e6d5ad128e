"""report.html and what lies beside it, from a run's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.report.alt import alt_texts
from paced_megatron.report.content import run_content
from paced_megatron.report.experiment import experiment_content
from paced_megatron.report.page import PagePicture, page, shown_measures
from paced_megatron.report.pictures.accuracy import draw_accuracy
from paced_megatron.report.pictures.canvas import NARROW, WIDE, Draw, png, svg
from paced_megatron.report.pictures.flow import draw_flow
from paced_megatron.report.pictures.loss import draw_loss
from paced_megatron.report.pictures.steps import draw_steps
from paced_megatron.report.source import read_run
from paced_megatron.report.tables import csv_tables
from paced_megatron.run_folder import ExperimentFolder, RunFolder
from paced_megatron.runtime.files import atomic_folder, write_atomically


def write_report(folder: Path) -> Path:
    """Write report.html into a run's or an experiment's folder, and report/ beside it with the same as JSON,
    CSV and PNG. The same files give the same bytes.

    Returns: the path of report.html.

    Raises:
        UserError: neither a run's folder nor an experiment's, or not finished; nothing is written then.
    """
    # Through JSON and back: the page and the pictures get what report.json says, to the last bit.
    text = json.dumps(read_content(folder), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    content = json.loads(text)
    drawings, alts = _drawings(content), alt_texts(content)
    pictures = {
        name: PagePicture(svg(draw, WIDE, f"{name}-w"), svg(draw, NARROW, f"{name}-n"), alts[name])
        for name, draw in drawings.items()
    }
    html = page(content, pictures)
    files = {"report.json": text.encode()}
    files |= {f"{name}.png": png(draw) for name, draw in (drawings | _headline(content)).items()}
    files |= {f"{name}.csv": table.encode() for name, table in csv_tables(content).items()}
    _write(folder / "report.html", html, files)
    return folder / "report.html"


def _write(page_path: Path, html: str, files: Mapping[str, bytes]) -> None:
    """What is as it should be is left alone: a finished run that is started again changes nothing."""
    beside = page_path.with_name("report")
    there = {path.name: path.read_bytes() for path in beside.iterdir()} if beside.is_dir() else {}
    if there != files:
        with atomic_folder(beside, replace=True) as fresh:
            for name, content in files.items():
                (fresh / name).write_bytes(content)
    if not page_path.is_file() or page_path.read_bytes() != html.encode():
        write_atomically(page_path, html)


def read_content(folder: Path) -> dict[str, Any]:
    """All that the report says, from the files in the folder. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a run's or an experiment's, as its run_dir does")
    if ExperimentFolder(folder).experiment.is_file():
        return experiment_content(folder)
    if RunFolder(folder).config.is_file():
        return run_content(read_run(RunFolder(folder)))
    raise UserError(
        f"{folder}: neither a run's folder (config.yaml) nor an experiment's (experiment.yaml); name one, as "
        "its run_dir does"
    )


def _headline(content: Mapping[str, Any]) -> dict[str, Draw]:
    """The first two arms side by side, to be shown elsewhere; only as a file."""
    movements = content["movements"]
    return {"headline": partial(draw_flow, movements=movements[:2])} if len(movements) > 2 else {}


def _drawings(content: Mapping[str, Any]) -> dict[str, Draw]:
    """Each picture by its name, which is also its file's."""
    drawings: dict[str, Draw] = {
        "movements": partial(draw_flow, movements=content["movements"]),
        "loss": partial(draw_loss, losses=content["loss"]),
    }
    if content["steps"]:
        drawings["steps"] = partial(draw_steps, curves=content["steps"])
    if content["accuracy"]:
        names = [arm["name"] for arm in content["arms"]] if content["kind"] == "experiment" else ["after"]
        drawings["accuracy"] = partial(draw_accuracy, measures=shown_measures(content), names=names)
    return drawings
