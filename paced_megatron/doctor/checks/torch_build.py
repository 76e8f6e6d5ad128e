"""torch: which build, and with how many threads."""

from __future__ import annotations

from paced_megatron.doctor.check import Asked, Finding, note, ok, problem
from paced_megatron.doctor.checks.packages import mismatch_of
from paced_megatron.doctor.limits import usable_cores


def check(asked: Asked) -> Finding:
    """It imports, and is one that setup.py takes."""
    wrong = mismatch_of("torch")
    if wrong:
        return problem(wrong, "pip install -e . -c constraints.txt; docs/install.md has the builds for a CPU")
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    threads, cores = torch.get_num_threads(), usable_cores()
    says = f"torch {torch.__version__}, a build {build}; a process computes with {threads} threads"
    if threads > max(cores, 1):
        return note(
            f"{says}, more than the {cores:g} cores that it may use: slow",
            f"OMP_NUM_THREADS={int(cores) or 1}",
        )
    return ok(says)
