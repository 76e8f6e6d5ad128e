"""apex: NVIDIA's, or the package of that name on PyPI?"""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.runtime.extensions import APEX, is_nvidias_apex, spec_of


def check(asked: Asked) -> Finding:
    """Nothing is imported: the other one brings a web framework with it."""
    spec = spec_of(APEX)
    if spec is None:
        return ok("not here, and not needed")
    where = next(iter(spec.submodule_search_locations or ()), spec.origin)
    if is_nvidias_apex():
        return ok(f"NVIDIA's, in {where}")
    return note(
        f"{where} is not NVIDIA's apex, but a web toolkit's that PyPI has under this name: it is hidden from "
        "Megatron-Core here, which would take it for NVIDIA's anywhere else, and break",
        "pip uninstall apex; nothing here needs either",
    )
