"""GPUs that `paced plan --gpu` knows, for planning where none is at hand."""

from __future__ import annotations

from paced_megatron.errors import UserError

# name -> 10^9 bytes, by NVIDIA's data sheets; what torch reports of a real one may be somewhat more.
DATA_SHEET_GB = {
    "a10": 24,
    "a100-40": 40,
    "a100-80": 80,
    "a40": 48,
    "b200": 180,
    "h100": 80,
    "h100-nvl": 94,
    "h200": 141,
    "l4": 24,
    "l40s": 48,
    "rtx-3090": 24,
    "rtx-4090": 24,
    "rtx-5090": 32,
}


def memory_of(name: str) -> float:
    """Bytes.

    Raises:
        UserError: the table has no GPU of this name.
    """
    found = DATA_SHEET_GB.get(name.lower().replace(" ", "-").replace("_", "-"))
    if found is None:
        raise UserError(
            f"--gpu {name}: not known here; take one of {', '.join(DATA_SHEET_GB)}, or say --memory-gb"
        )
    return found * 1e9
