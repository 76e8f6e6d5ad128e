"""Transformer Engine, which is optional."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask

# In a process of its own: built against another torch it may end the process that imports it.
IMPORT = "import transformer_engine.pytorch, importlib.metadata as m; print(m.version('transformer-engine'))"
IMPORT_S = 60.0
EXTRAS = ("te", "dev")  # of Megatron-Core, which name it; with a range in 0.16.1, without one in 0.19.2


def check(asked: Asked) -> Finding:
    """Whether it is here, imports, and is of a version that this Megatron-Core names."""
    if find_spec("transformer_engine") is None:
        return ok("not here, and not needed: the layers are Megatron-Core's own")
    answer = ask([sys.executable, "-c", IMPORT], IMPORT_S)
    if answer.code != 0:
        return note(
            f"Transformer Engine is here and does not import ({answer.why}); Megatron-Core may stumble over "
            "it",
            "pip uninstall transformer-engine, or take the one in NVIDIA's container (docs/install.md)",
        )
    there, wanted = answer.out.strip(), wanted_by_megatron()
    if not wanted.contains(there, prereleases=True):
        return note(
            f"Transformer Engine {there} imports, and Megatron-Core {version('megatron-core')} is for "
            f"{wanted}: its layers may fail, or compute something else",
            f"pip install 'transformer-engine[pytorch]{wanted}', or pip uninstall transformer-engine: the "
            "layers are then Megatron-Core's own",
        )
    return ok(f"Transformer Engine {there} imports")


def wanted_by_megatron() -> SpecifierSet:
    """The versions that the installed Megatron-Core's own list names; any where it names none."""
    try:
        lines = [Requirement(line) for line in requires("megatron-core") or []]
    except PackageNotFoundError:
        return SpecifierSet()
    ranges = [
        one.specifier
        for one in lines
        if one.name == "transformer-engine"
        and (one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS))
    ]
    return max(ranges, key=lambda found: len(str(found)), default=SpecifierSet())
