"""`paced report`: a folder's files as a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paced_megatron.commands.usage import SHORT_EXIT_CODES, Usage, explain
from paced_megatron.exit_codes import DONE

USAGE = Usage(
    description="One page that shows a run or an experiment, from the files in its folder. Nothing is run, "
    "and the page asks no network.",
    reads="FOLDER: the run's or the experiment's (run_dir)",
    writes="FOLDER/report.html, and the same as PNG, CSV and JSON beside it",
    examples=(("paced report runs/quickstart", "after `paced quickstart`"),),
    exit_codes=SHORT_EXIT_CODES,
)


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    report = verbs.add_parser("report", help="report.html from the files of a run or an experiment")
    explain(report, USAGE)
    report.add_argument("folder", type=Path, help="the run's or the experiment's folder (run_dir)")
    report.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the report and print where it is. Raises UserError."""
    from paced_megatron.report import write_report

    print(write_report(options.folder))
    return DONE
