"""docs/configuration.md is written from the dataclasses, and is the one that is in the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from paced_megatron.config import Config
from paced_megatron.config.check import known_keys

ROOT = Path(__file__).resolve().parents[2]


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "write_config_reference", ROOT / "tools/write_config_reference.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == writer().reference(), "run python tools/write_config_reference.py"


def test_the_reference_page_names_every_key() -> None:
    page = writer().reference()
    sections = {key.rsplit(".", 1)[0] for key in known_keys(Config) if "." in key}
    for key in known_keys(Config):
        title = f"`{key.replace('.0', '[]')}`" if key in sections | {"stages"} else f"| `{key}` |"
        assert title in page, key
