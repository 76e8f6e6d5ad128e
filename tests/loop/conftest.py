"""A run of which training is all that is left to do, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from loop.recipes import write_recipe
from paced_megatron.cli import main


@pytest.fixture(scope="session")
def answered(tmp_path_factory) -> Path:
    """The run's folder of one process, in which training is all that is left to do; to be copied."""
    recipe = write_recipe(tmp_path_factory.mktemp("answered"), evaluation={"every": 0})
    for verb in ("rollout", "weigh", "respond"):
        assert main([verb, str(recipe)]) == 0
    return recipe.parent / "run"
