"""What the tests of a report share: one run's and one experiment's report, made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hand_made_runs import write_experiment, write_run

ARMS = {
    "unweighted": {"pacing.keep": "all", "pacing.kernel": "uniform"},
    "paced": {},
    "permuted": {"pacing.permute": True},
    "solvable": {"pacing.keep": "solvable", "pacing.kernel": "uniform"},
}
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Made:
    """A folder with its report, and what is in it."""

    folder: Path
    html: str
    content: dict[str, Any]


@pytest.fixture(scope="session")
def run_report(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(write_run(tmp_path_factory.mktemp("runs") / "by-hand"))


@pytest.fixture(scope="session")
def experiment_report(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(write_experiment(tmp_path_factory.mktemp("runs") / "four-arms", ARMS, SEEDS))


def _made(folder: Path) -> Made:
    from paced_megatron.report import write_report

    html = write_report(folder).read_text(encoding="utf-8")
    return Made(folder, html, json.loads((folder / "report" / "report.json").read_text(encoding="utf-8")))
