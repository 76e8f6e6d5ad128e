"""Transformer Engine, which is optional."""

from __future__ import annotations

import sys
from importlib.metadata import version

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask
from paced_megatron.runtime.extensions import ENGINE, spec_of, transformer_engine_wanted

# In a process of its own: built against another torch it may end the process that imports it.
IMPORT = "import transformer_engine.pytorch, importlib.metadata as m; print(m.version('transformer-engine'))"
IMPORT_S = 60.0


def check(asked: Asked) -> Finding:
    """Whether it is here, imports, and is of a version that this Megatron-Core names."""
    if spec_of(ENGINE) is None:
        return ok("not here, and not needed: the layers are Megatron-Core's own")
    answer = ask([sys.executable, "-c", IMPORT], IMPORT_S)
    if answer.code != 0:
        return note(
            f"Transformer Engine is here and does not import ({answer.why}): the layers are Megatron-Core's "
            "own",
            "pip uninstall transformer-engine, or take the one in NVIDIA's container (docs/install.md)",
        )
    there, wanted = answer.out.strip(), transformer_engine_wanted()
    if not wanted.contains(there, prereleases=True):
        return note(
            f"Transformer Engine {there} imports, and Megatron-Core {version('megatron-core')} is for "
            f"{wanted}: it is hidden, and the layers are Megatron-Core's own",
            f"pip install 'transformer-engine[pytorch]{wanted}', or pip uninstall transformer-engine",
        )
    return ok(f"Transformer Engine {there} imports")
