"""What a lent machine is, to be kept beside what was measured there; and whether all that is needed imports.

python tools/gpu/environment.py --out environment.txt
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from paced_megatron.report.environment import environment, hardware

# What the tests and the benchmarks import; the last three are peers.
NEEDED = (
    "megatron.core",
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package that is there may break in a hundred ways
            missing.append(f"{name} can't be imported: {type(error).__name__}: {error}")
    said = [*lines(), *missing]
    out.write_text("\n".join(said) + "\n")
    print("\n".join(said))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
