"""An experiment's outcome as a table for the terminal: measures down, arms across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table

from paced_megatron.evaluation.strata import STRATA
from paced_megatron.experiments.end import COSTS
from paced_megatron.experiments.experiment import BEFORE
from paced_megatron.experiments.results import Arm, Comparison, Measured

STRATUM_NAMES = {"never": "never", "frontier": "sometimes", "always": "always"}  # solved, before
MEASURE_NAMES = {
    "test_sampled": "held-out, sampled",
    "test_greedy": "held-out, greedy",
    "forgetting_sampled": "other skill, sampled",
    "forgetting_greedy": "other skill, greedy",
    "problems_kept": "problems trained on",
    "training_steps": "training, steps",
    "training_tokens": "training, tokens",
    "training_seconds": "training, seconds",
    "rollout_tokens": "rollouts, tokens",
    "rollout_seconds": "rollouts, seconds",
}
_GROUPS = (
    ("test_sampled", *(f"test_sampled_{stratum}" for stratum in STRATA)),
    ("test_greedy", *(f"test_greedy_{stratum}" for stratum in STRATA)),
    ("forgetting_sampled", "forgetting_greedy"),
    COSTS,
)
_ENDLESS = 100_000  # columns: what a table is measured in, which would else be measured as cut off


def measure_name(measure: str, problems: int | None = None) -> str:
    """As in "held-out, sampled", and "  sometimes (91)" for a stratum of it."""
    stratum = measure.rpartition("_")[2]
    name = f"  {STRATUM_NAMES[stratum]}" if stratum in STRATUM_NAMES else MEASURE_NAMES[measure]
    return name if problems is None else f"{name} ({problems})"


def comparison_table(comparison: Comparison) -> Group:
    """Accuracy in %, costs as they are; mean ± sample deviation over seeds."""
    return Group(_title(comparison), _Fitting(comparison, comparison.arms))


@dataclass(frozen=True)
class _Fitting:
    """One table of these arms; where the terminal is too narrow for it, several below one another: a number
    that lost a digit would be another number."""

    comparison: Comparison
    arms: Sequence[Arm]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _table(self.comparison, self.arms)
        needed = Measurement.get(console, options.update(width=_ENDLESS), table).maximum
        if len(self.arms) == 1 or needed <= options.max_width:
            yield from ("", table, "")
            return
        half = -(-len(self.arms) // 2)
        for arms in (self.arms[:half], self.arms[half:]):
            yield _Fitting(self.comparison, arms)


def _table(comparison: Comparison, arms: Sequence[Arm]) -> Table:
    # The box itself puts a space between columns: with padding, four arms wouldn't fit 80 columns.
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for arm in arms:
        table.add_column(arm.name, justify="right", no_wrap=True)
    for group in _GROUPS:
        shown = [name for name in group if any(name in arm.measures for arm in comparison.arms)]
        for name in shown:
            cells = [_cell(name, arm.measures.get(name)) for arm in arms]
            problems = comparison.problems.get(name) if name.startswith("test") else None
            label = measure_name(name, problems)
            table.add_row(label, *cells, end_section=name == shown[-1])
    return table


def _title(comparison: Comparison) -> str:
    seeds = len({seed for arm in comparison.arms for seed in arm.seeds})
    spread = f"mean ± deviation over {seeds} seeds" if seeds > 1 else "one seed"
    has_strata = any(name.rpartition("_")[2] in STRATA for name in comparison.problems)
    strata = ", and never, sometimes, always are what it then solved" if has_strata else ""
    return (
        f"accuracy in %, {spread}; `{BEFORE}` is the student before training{strata}; rollouts are made once "
        "a seed, for all arms"
    )


def _cell(name: str, measured: Measured | None) -> str:
    if measured is None:
        return ""
    if name in MEASURE_NAMES and not name.startswith(("test", "forgetting")):
        return f"{measured.mean:,.0f}"
    mean = f"{100 * measured.mean:.1f}"
    return mean if measured.deviation is None else f"{mean}±{100 * measured.deviation:.1f}"
