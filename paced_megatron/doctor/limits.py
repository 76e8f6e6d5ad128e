"""What this process may use of the machine: its own share, which a container or a Slurm job makes smaller."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
NO_LIMIT = 2**60  # version 1 writes a number near 2**63 where there is none


def memory_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int | None:
    """Bytes that this process's control groups (versions 1 and 2) allow; None: no limit."""
    found = [
        int(text)
        for folder in _folders(cgroups, own, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _text(folder / name)).isdigit() and int(text) < NO_LIMIT
    ]
    return min(found, default=None)


def available_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Bytes that can be taken now: what the machine has left, within the limit."""
    free = psutil.virtual_memory().available
    limit = memory_limit(cgroups, own)
    return free if limit is None else min(free, max(limit - _used(cgroups, own), 0))


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """Cores that this process may run on: its affinity, and its control groups' share of the time."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _folders(cgroups, own, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            allowed = min(allowed, int(quota) / int(period))
    return allowed


def nodes_of_job() -> int:
    """Of the Slurm job that this is run in; 1 outside of one."""
    told = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return int(told) if told.isdigit() else 1


def processes_here(world_size: int) -> int:
    """How many of a job's processes are on one node."""
    return math.ceil(world_size / nodes_of_job())


def _used(cgroups: Path, own: Path) -> int:
    """Bytes that the processes under the limit hold, without the cache of files that can be given back."""
    for folder in _folders(cgroups, own, "memory"):
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if used.isdigit():
            fields = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            cache = fields.get("inactive_file") or fields.get("total_inactive_file") or "0"
            return max(int(used) - int(cache), 0)
    return 0


def _folders(cgroups: Path, own: Path, controller: str) -> Iterator[Path]:
    """This process's group and those around it, of version 2 and of version 1's hierarchy of `controller`."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = cgroups / controllers if controllers and (cgroups / controllers).is_dir() else cgroups
        top = top / controller if controllers and top == cgroups else top
        inside = Path(path.lstrip("/"))
        yield from (top / part for part in (inside, *inside.parents))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def gb(size: float) -> str:
    """As in "1.5 GB" (2^30 bytes) or "106 MB" (2^20)."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
