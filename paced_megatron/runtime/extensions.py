"""Which of NVIDIA's packages can be used; the others are hidden, before Megatron-Core is imported
(uncompiled.py).

Megatron-Core uses Transformer Engine and apex where `import transformer_engine` and `import apex` work, and
goes without on an ImportError. It breaks on anything else: Transformer Engine without its torch part raises
RuntimeError (2.20.2 does), one that was built for another torch OSError. It does not look at the version
either, though its metadata says which fit; and on PyPI `apex` is a web toolkit. What can't be used is
therefore hidden from it: its import raises ImportError.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

ENGINE, APEX = "transformer_engine", "apex"
NVIDIAS_APEX = "multi_tensor_apply"  # a folder in it that PyPI's has not


def spec_of(package: str) -> ModuleSpec | None:
    """What Python finds under a top-level name, hidden or not; None: nothing. Nothing is imported."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(package, None)) is not None:
            return spec
    return None


@cache
def transformer_engine_version() -> str | None:
    """Of the one that is installed, whether it can be used or not; None: none is."""
    try:
        return version("transformer-engine")
    except PackageNotFoundError:
        return None


def transformer_engine_wanted() -> SpecifierSet:
    """The versions that this Megatron-Core's metadata names; any where it names none."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    fits = SpecifierSet()
    for requirement in map(Requirement, requires("megatron-core") or ()):
        if requirement.name.replace("_", "-").lower() == "transformer-engine":
            fits &= requirement.specifier
    return fits


@cache
def transformer_engine_missing() -> str | None:
    """Why Transformer Engine can't be used, with the versions that could; None: it can. Imports it."""
    fits = transformer_engine_wanted()
    installed, ours = transformer_engine_version(), f"Megatron-Core {version('megatron-core')}"
    wanted = f"{ours} wants {fits}" if fits else f"{ours} names no version"
    if installed is None:
        return f"Transformer Engine is not installed ({wanted})"
    if not fits.contains(installed, prereleases=True):
        return f"Transformer Engine {installed} does not fit: {wanted}"
    try:
        importlib.import_module(f"{ENGINE}.pytorch")
    except Exception as error:  # a library that does not load raises whatever it likes
        said = (str(error).splitlines() or [""])[0][:200]
        return f"Transformer Engine {installed} does not import ({type(error).__name__}: {said})"
    return None


def is_nvidias_apex() -> bool | None:
    """Nothing is imported: the other one brings a web framework with it. None: none is installed."""
    spec = spec_of(APEX)
    if spec is None:
        return None
    return any((Path(place) / NVIDIAS_APEX).is_dir() for place in spec.submodule_search_locations or ())


def _hide(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own way: its import raises ImportError


def hide_what_is_of_no_use() -> None:
    """Hide a package that is installed and can't be used."""
    if transformer_engine_version() is not None and transformer_engine_missing() is not None:
        _hide(ENGINE)
    if APEX not in sys.modules and is_nvidias_apex() is False:
        _hide(APEX)
