"""A run, or an experiment of several, in a form that people look at.

`write_report(folder)` makes report.html: one file that loads nothing, and beside it the same as PNG, CSV and
JSON. It goes one way, and nothing goes back: a run's files (`source.py`) -> numbers (`content.py`, with
`movements.py`, `accuracy.py`, `cost.py`) -> report.json -> pictures (`pictures/`) and page (`page.py`,
`templates/`). `table.py` is the table for the terminal. What is measured, and how, belongs to `evaluation/`;
what arms are compared in, to `experiments/`; here it is only shown. Open `content.py` first.
"""

from __future__ import annotations

from pathlib import Path


def write_report(folder: Path) -> Path:
    """See `write.write_report`. Imported late: a run needs matplotlib at its end only."""
    from paced_megatron.report.write import write_report as write

    return write(folder)


__all__ = ["write_report"]
