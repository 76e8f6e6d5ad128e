"""What a lent machine is, to be kept beside what was measured there; and whether all that is needed is there.

python tools/gpu/environment.py --out environment.txt
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from paced_megatron.report.environment import environment, hardware

# What the tests and the benchmarks import; the last three are the benchmarks' peers and their needs.
NEEDED = (
    "megatron",
    "transformers",
    "math_verify",
    "triton",
    "pytest",
    "liger_kernel",
    "trl",
    "datasets",
)


def lines() -> Iterator[str]:
    """The environment, in words."""
    said = environment()
    if "COMMIT" in os.environ:  # a copy of a tree has no repository with it
        said["commit"] = os.environ["COMMIT"]
    yield json.dumps(said, indent=1)
    yield hardware()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield f"{properties}; CUDA {torch.version.cuda}, NCCL {torch.cuda.nccl.version()}"
        if program := shutil.which("nvidia-smi"):
            asked = [program, "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv"]
            yield subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout.strip()


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    # Found, not imported: some take ten seconds, and a GPU waits.
    missing = [f"{name}: not installed here" for name in NEEDED if not _is_there(name)]
    said = [*lines(), *missing]
    out.write_text("\n".join(said) + "\n")
    print("\n".join(said))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
