"""An experiment's report: its arms and seeds from their folders, and what `experiments/` makes of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paced_megatron.errors import UserError
from paced_megatron.experiments.experiment import BEFORE, Experiment, load_experiment, read_experiment
from paced_megatron.experiments.finished import missing_runs
from paced_megatron.experiments.reading import reading
from paced_megatron.experiments.results import Comparison, read_comparison
from paced_megatron.report.content import Arm, report_content
from paced_megatron.report.source import read_run
from paced_megatron.run_folder import ExperimentFolder


def experiment_content(path: Path) -> dict[str, Any]:
    """The report of the experiment in the folder.

    Raises:
        UserError: not an experiment's folder; a run of it has not come to its end; a file is missing or
            broken.
    """
    folder = ExperimentFolder(path)
    experiment = read_experiment(folder)
    _check_finished(experiment)
    arms = [
        Arm(name, overrides, [read_run(folder.arm(name, seed)) for seed in experiment.seeds])
        for name, overrides in experiment.arms.items()
    ]
    comparison = read_comparison(path)
    began_in = load_experiment(folder.experiment).run_dir
    return report_content(
        path.name,
        arms,
        reading=reading(comparison),
        commands=[f"paced compare {shlex.quote(f'{began_in}/experiment.yaml')} run_dir=runs/again"],
        more={"differences": list(_differences(comparison))},
    )


def _check_finished(experiment: Experiment) -> None:
    unfinished = [f"{arm} seed {seed}" for arm, seed in missing_runs(experiment)]
    if unfinished:
        raise UserError(
            f"{experiment.folder.path}: {len(unfinished)} of {len(experiment.runs())} runs have not come to "
            f"their end ({_some(unfinished)}): `paced compare {experiment.folder.experiment}` goes on"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _differences(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Arm against arm; what an arm gained on the student before is in `accuracy`."""
    for difference in comparison.differences:
        if BEFORE not in (difference.arm, difference.other):
            yield asdict(difference)
