"""`paced report`: a folder's files as a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paced_megatron.exit_codes import DONE

_DESCRIPTION = "Write report.html, and the same as PNG, CSV and JSON, from a folder's files. Nothing is run."


def add(verbs: Any) -> None:
    """The verb, for argparse."""
    report = verbs.add_parser(
        "report", help="report.html from the files of a run or an experiment", description=_DESCRIPTION
    )
    report.add_argument("folder", type=Path, help="the run's or the experiment's folder (run_dir)")
    report.set_defaults(run=run)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the report and print where it is. Raises UserError."""
    from paced_megatron.report import write_report

    print(write_report(options.folder))
    return DONE
