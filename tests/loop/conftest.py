"""What tests of runs share: a run of which training is all that is left to do, a process to fork from, and
runs that were never interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loop.forked import Forkery
from loop.interrupted import recipe_at, world_size
from loop.recipes import write_recipe
from paced_megatron.cli import main


@pytest.fixture(scope="session")
def answered(tmp_path_factory) -> Path:
    """The run's folder of one process, in which training is all that is left to do; to be copied."""
    recipe = write_recipe(tmp_path_factory.mktemp("answered"), evaluation={"every": 0})
    for verb in ("rollout", "weigh", "respond"):
        assert main([verb, str(recipe)]) == 0
    return recipe.parent / "run"


@pytest.fixture(scope="session")
def forkery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkery]:
    with Forkery(tmp_path_factory.mktemp("forkery")) as forkery:
        yield forkery


@pytest.fixture(scope="session")
def never_interrupted(forkery: Forkery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """layout -> the run's folder; each is made when it is first asked for."""
    made: dict[str, Path] = {}

    def run_of(layout: str) -> Path:
        if layout not in made:
            answered = None if layout == "TP1" else run_of("TP1")
            recipe = recipe_at(tmp_path_factory.mktemp(f"whole-{layout}"), layout, answered)
            forkery.run(["run", recipe], world_size(layout))
            made[layout] = recipe.parent / "run"
        return made[layout]

    return run_of
