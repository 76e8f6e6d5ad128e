"""apex: NVIDIA's, or the package of that name on PyPI?"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from paced_megatron.doctor.check import Asked, Finding, ok, problem

NVIDIAS = "multi_tensor_apply"  # a folder in it that the other does not have


def check(asked: Asked) -> Finding:
    """Nothing is imported: the other one brings a web framework with it."""
    spec = find_spec("apex")
    if spec is None:
        return ok("not here, and not needed")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any((folder / NVIDIAS).is_dir() for folder in folders):
        return ok(f"NVIDIA's, in {folders[0]}")
    where = folders[0] if folders else spec.origin
    return problem(
        f"{where} is not NVIDIA's apex: Megatron-Core takes whatever has that name for it, and breaks later; "
        "the apex on PyPI is a web toolkit",
        "pip uninstall apex; nothing here needs either",
    )
