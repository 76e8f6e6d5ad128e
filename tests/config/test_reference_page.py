"""docs/configuration.md is written from the dataclasses, and is the one that is in the repository."""

from __future__ import annotations

import importlib.util
import re
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from paced_megatron.claim import _MAY_DIFFER
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


def test_the_page_on_resuming_names_every_key_that_may_change_and_no_other() -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    table = page.partition("## What may change between two starts")[2].partition("Everything else")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    patterns = []
    for row in rows:  # `rollout.urls`, `teacher_urls`: of the same section
        section = ""
        for name in re.findall("`([^`]+)`", row):
            section = name.rpartition(".")[0] if "." in name else section
            patterns.append(name if "." in name or name == "run_dir" else f"{section}.{name}")
    may = {key for key in known_keys(Config) if f"{key}.".startswith(tuple(f"{one}." for one in _MAY_DIFFER))}
    told = {key for key in known_keys(Config) if any(fnmatch(key, pattern) for pattern in patterns)}
    sections = {"parallel", "logging"}  # named by what is in them
    below = {key for key in may if key.startswith("rollout.launch.")}  # named by the section
    assert may - sections - below == told
