"""Slurm: its version, what it has, and whether this is a job of it."""

from __future__ import annotations

import os
import re
from collections import defaultdict

from paced_megatron.doctor.check import Asked, Finding, note, ok
from paced_megatron.doctor.programs import ask, is_there

PARTITIONS = ["sinfo", "--noheader", "--format=%R|%D|%G"]  # partition, nodes, GPUs of a node
ANSWER_S = 5.0
_GPUS = re.compile(r"gpu(?::[^:,(]+)?:(\d+)")  # gpu:8, gpu:h100:8(S:0-1)


def check(asked: Asked) -> Finding:
    """No Slurm is not a problem: `paced run` starts its own processes."""
    if not is_there(PARTITIONS[0]):
        return ok("not here: `paced run` starts its processes itself, on this machine")
    version = ask(["sinfo", "--version"], ANSWER_S)
    name = version.lines[0] if version.lines else "Slurm"
    listed = ask(PARTITIONS, ANSWER_S)
    if listed.code != 0:
        return note(
            f"{name} is installed, and its controller does not answer ({listed.why}): nothing can be queued",
            "is this one of the cluster's nodes, and slurm.conf (SLURM_CONF) the right one?",
        )
    says = f"{name}: {'; '.join(_partitions(listed.lines)) or 'no partition'}"
    return ok(f"{says}; {_job()}")


def _partitions(lines: list[str]) -> list[str]:
    """A partition's nodes may have a line for each kind of GPUs."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        partition, nodes, gres = [*line.split("|"), "", ""][:3]
        gpus = sum(int(number) for number in _GPUS.findall(gres))
        found[partition].append(f"{nodes} x {gpus} GPUs" if gpus else f"{nodes} without GPUs")
    return [f"partition {partition}, nodes: {', '.join(kinds)}" for partition, kinds in found.items()]


def _job() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return "this is no job of it"
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return f"this is job {job}, on {nodes} {'node' if nodes == '1' else 'nodes'}"
