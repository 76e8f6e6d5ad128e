"""The fixture `load`: a recipe's text, written and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.written import YAML
from paced_megatron.config import Config
from paced_megatron.config.io import load_config


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a recipe's YAML and loads it, started in another folder."""
    recipe, elsewhere = tmp_path / "recipe", tmp_path / "elsewhere"
    recipe.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def load(text: str = YAML, *overrides: str) -> Config:
        (recipe / "run.yaml").write_text(text)
        return load_config(Path("../recipe/run.yaml"), overrides)

    return load
