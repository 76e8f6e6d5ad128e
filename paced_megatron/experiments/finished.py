"""Whether a run has come to its end, by its files."""

from __future__ import annotations

from paced_megatron.config import Config
from paced_megatron.evaluation.accuracy import read_rows
from paced_megatron.evaluation.plan import planned
from paced_megatron.run_folder import RunFolder


def is_finished(run: RunFolder, config: Config) -> bool:
    """Whether all that the configuration asks for is there: the export, the last evaluation, the pass rates
    after."""
    number, step = len(config.stages), config.stages[-1].train_iters
    last = run.stage(number)
    if not last.student.exists():
        return False
    if config.evaluation.pass_rates_after and not last.pass_rates_after.exists():
        return False
    if config.problems.test is None:
        return True
    measured = {row.key for row in read_rows(run.evaluation)}
    return all((number, step, *kind) in measured for kind in planned(config))
