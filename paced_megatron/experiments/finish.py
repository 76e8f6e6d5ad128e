"""The end of `paced compare`: the table, what it says, the files, and where the report is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from paced_megatron.experiments.reading import reading
from paced_megatron.experiments.results import read_comparison, write_comparison
from paced_megatron.experiments.table import comparison_table
from paced_megatron.progress import say, warn
from paced_megatron.run_folder import ExperimentFolder


def finish(path: Path, console: Console) -> None:
    """Show and write what the experiment in the folder `path` gave so far. Raises UserError."""
    from paced_megatron.report import write_report  # late: it imports matplotlib

    comparison = read_comparison(path)
    write_comparison(comparison, ExperimentFolder(path))
    console.print(comparison_table(comparison))
    console.print(reading(comparison), markup=False, highlight=False)
    say(console, "")
    if comparison.missing:
        runs = ", ".join(f"{arm} seed {seed}" for arm, seed in comparison.missing)
        warn(console, f"not run yet: {runs}; without --arms and --seeds, `paced compare` makes them")
        return say(console, f"results: {path}")
    say(console, f"results: {path}")
    say(console, f"report:  {write_report(path)}")
