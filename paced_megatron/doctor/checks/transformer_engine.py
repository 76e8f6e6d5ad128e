"""Transformer Engine, which is optional."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask

# In a process of its own: built against another torch it may end the process that imports it.
IMPORT = "import transformer_engine.pytorch, importlib.metadata as m; print(m.version('transformer-engine'))"
IMPORT_S = 60.0


def check(asked: Asked) -> Finding:
    """Whether it is here and imports; Megatron-Core takes it where it does."""
    if find_spec("transformer_engine") is None:
        return ok("not here, and not needed: the layers are Megatron-Core's own")
    answer = ask([sys.executable, "-c", IMPORT], IMPORT_S)
    if answer.code == 0:
        return ok(f"Transformer Engine {answer.out.strip()} imports")
    return note(
        f"Transformer Engine is here and does not import ({answer.why}); Megatron-Core may stumble over it",
        "pip uninstall transformer-engine, or take the one in NVIDIA's container (docs/install.md)",
    )
