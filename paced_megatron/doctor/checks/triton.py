"""Triton, in which the loss's GPU kernels are written."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from packaging.requirements import Requirement

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask

# In a process of its own: it loads a compiler, which may be built against other libraries than are here.
IMPORT = "import triton; print(triton.__version__)"
IMPORT_S = 60.0
WITHOUT = "the loss takes its torch path, which goes over each chunk of logits several times"


def check(asked: Asked) -> Finding:
    """Whether it is here, imports, and is the one that this torch was built with. Only a GPU uses it."""
    import torch

    has_gpu = asked.uses_gpus and torch.cuda.is_available()
    if find_spec("triton") is None:
        if not has_gpu:
            return ok("not here, and not needed without a GPU")
        return note(
            f"not here: {WITHOUT}",
            "pip install triton; torch's builds for CUDA bring it on Linux (docs/install.md)",
        )
    answer = ask([sys.executable, "-c", IMPORT], IMPORT_S)
    if answer.code != 0:
        says = f"Triton is here and does not import ({answer.why})"
        return note(f"{says}: {WITHOUT}", "pip install --force-reinstall triton") if has_gpu else ok(says)
    there, wanted = answer.out.strip(), _wanted_by_torch()
    if wanted and has_gpu and not Requirement(f"triton{wanted}").specifier.contains(there, prereleases=True):
        return note(
            f"Triton {there} imports, and torch {torch.__version__} was built with triton{wanted}",
            f"pip install 'triton{wanted}'",
        )
    return ok(f"Triton {there} imports" + ("" if has_gpu else "; without a GPU nothing uses it"))


def _wanted_by_torch() -> str:
    """As in "==3.6.0"; empty where torch doesn't say."""
    try:
        lines = [Requirement(line) for line in requires("torch") or []]
    except PackageNotFoundError:
        return ""
    found = [one for one in lines if one.name == "triton" and (one.marker is None or one.marker.evaluate())]
    return str(found[0].specifier) if found else ""
