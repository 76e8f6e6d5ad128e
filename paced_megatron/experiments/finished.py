"""Whether runs have come to their end, by their files."""

from __future__ import annotations

from paced_megatron.config import Config
from paced_megatron.evaluation.accuracy import read_rows
from paced_megatron.evaluation.plan import planned
from paced_megatron.experiments.experiment import Experiment
from paced_megatron.run_folder import RunFolder
from paced_megatron.training.budget import end_of


def is_finished(run: RunFolder, config: Config) -> bool:
    """Whether all that the configuration asks for is there: the export, the last evaluation, the pass rates
    after, what lm-eval's tasks say."""
    last = run.stage(len(config.stages))
    if not last.student.exists():
        return False
    if config.evaluation.pass_rates_after and not last.pass_rates_after.exists():
        return False
    end = end_of(run, config)
    if end is None:
        return False
    if not _forgetting_is_measured(run, config, end):
        return False
    if config.problems.test is None:
        return True
    measured = {row.key for row in read_rows(run.evaluation)}
    return all((*end, *kind) in measured for kind in planned(config))


def _forgetting_is_measured(run: RunFolder, config: Config, end: tuple[int, int]) -> bool:
    """Whether each of evaluation.forgetting_tasks was, and the summary is written, which comes last."""
    tasks, (stage, step) = config.evaluation.forgetting_tasks, end
    measured = all(run.stage(stage).forgetting(step, task).exists() for task in tasks)
    return measured and (not tasks or run.forgetting.exists())


def missing_runs(experiment: Experiment) -> list[tuple[str, int]]:
    """(arm, seed) of the runs that have not come to their end."""
    return [
        (arm, seed)
        for arm, seed in experiment.runs()
        if not is_finished(experiment.folder.arm(arm, seed), experiment.config(arm, seed))
    ]
