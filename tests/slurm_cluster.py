"""A real Slurm on this machine as an object (tests/slurm/cluster.sh), for the fixture `slurm`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
CLUSTER_SH = ROOT / "tests" / "slurm" / "cluster.sh"
SLOTS = range(8)  # 9 is what a person gets who calls cluster.sh by hand
NODES, CPUS, GPUS = 4, 8, 8
PREFIX = "paced-slurm-"  # of a cluster's folder; /tmp, since a Unix socket's path has a limit
# What the shell that started pytest may have from a job, or from a rank, of its own.
NOT_HANDED_ON = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "PACED_", "MASTER_")
NOR_THESE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL")
)


class Cluster:
    """Four nodes of eight CPUs and eight GPUs (character devices that nobody computes on).

    Attributes:
        folder: its slurm.conf, logs and state.
        environment: what a client's process needs; ours, without what comes from a job.
        nodes: the nodes' names, which lead to addresses of this machine.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self.folder = folder
        self.nodes = [f"s{slot}n{number}" for number in range(1, NODES + 1)]
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(NOT_HANDED_ON) and name not in NOR_THESE
        } | {"SLURM_CONF": str(folder / "slurm.conf"), "PACED_REPO": str(ROOT)}

    def run(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        check: bool = True,
        timeout: float = 180,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A client's command. A failure's stderr is in the AssertionError where `check`."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment | (env or {}),
            text=True,
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def sbatch(
        self, *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> str:
        """Submit; the job's number."""
        return self.run("sbatch", "--parsable", *arguments, env=env, cwd=cwd).stdout.strip().split(";")[0]

    def states(self, job: str) -> set[str]:
        """Those of the job, or of all parts of an array or a heterogeneous job."""
        return set(self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T", check=False).stdout.split())

    def wait(self, job: str, timeout: float = 120, until: frozenset[str] | set[str] = ENDED) -> set[str]:
        """Until all parts of the job are in one of these states; `sbatch --wait` polls every ten seconds, and
        never ends where a node is down."""
        deadline = time.monotonic() + timeout
        while not ((states := self.states(job)) and states <= until):
            if time.monotonic() > deadline:
                shown = self.run("scontrol", "show", "job", job, check=False).stdout
                pytest.fail(f"job {job} is {states or 'unknown'} after {timeout:.0f} s\n{shown}")
            time.sleep(0.2)
        return states

    def wait_for(self, what: Callable[[], object], why: str, timeout: float = 120) -> None:
        """Poll until `what()` is true."""
        deadline = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {why}"
            time.sleep(0.1)

    def field(self, job: str, name: str) -> str:
        """Of `scontrol show job`, as ExitCode or Restarts; works for an hour after the job's end."""
        shown = self.run("scontrol", "-o", "show", "job", job).stdout
        return next(word.split("=", 1)[1] for word in shown.split() if word.startswith(name + "="))

    def node(self, name: str, what: str) -> None:
        """`what`: "start" or "kill" (with -9) this node's slurmd."""
        subprocess.run([CLUSTER_SH, "node", self.folder, name, what], check=True, timeout=30)

    def ours_left(self, within: float = 10.0) -> list[str]:
        """Command lines of what jobs of this cluster have started and still runs, step daemons included,
        after so many seconds: Slurm calls a job ended before the last of its daemons has gone."""
        deadline = time.monotonic() + within
        while (found := self.ours()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def ours(self) -> list[str]:
        """The same, now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                mine = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                of_a_job = "SLURM_JOB_ID" in environment or process.name() == "slurmstepd"
                if mine and of_a_job and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def clean(self) -> None:
        """No test leaves a job or a node that is down to the next one."""
        self.run("scancel", "-u", "root", check=False)
        for name in self.nodes:
            pid = self.folder / "run" / f"slurmd.{name}.pid"
            if not pid.exists() or not psutil.pid_exists(int(pid.read_text())):
                self.node(name, "start")
        if not self._idle():
            self.run("scontrol", "update", f"nodename={','.join(self.nodes)}", "state=resume", check=False)
        self.wait_for(self._idle, "all nodes idle", 60)

    def _idle(self) -> bool:
        queue = self.run("squeue", "-h").stdout.strip()
        states = self.run("sinfo", "-hN", "-p", "main", "-o", "%t").stdout.split()
        return not queue and set(states) == {"idle"}


def unavailable(why: str) -> NoReturn:
    """Skip with the reason; fail where REQUIRE_SLURM=1, so that a green run can't hide that there is none."""
    if os.environ.get("REQUIRE_SLURM") == "1":
        pytest.fail(f"no Slurm to test with: {why}")
    pytest.skip(f"no Slurm to test with: {why}")


def install() -> None:
    """Debian's packages, where they are not there."""
    if os.geteuid() != 0:
        unavailable("starting one takes root (munged, slurmd, mknod)")
    if all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        return
    if shutil.which("apt-get") is None:
        unavailable("slurmctld, slurmd, sbatch and munged are not here, and neither is apt-get")
    try:
        done = subprocess.run([CLUSTER_SH, "install"], capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        unavailable("apt-get took more than 240 s")
    if done.returncode != 0:
        unavailable(f"apt-get failed: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster in a slot that is free, whatever other sessions on this machine have."""
    _stop_orphaned_clusters()
    with _free_slot() as slot:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        (folder / "owner").write_text(str(os.getpid()))
        try:
            started = subprocess.run(
                [CLUSTER_SH, "start", folder, str(slot), str(NODES), str(CPUS), str(GPUS)],
                capture_output=True,
                text=True,
                timeout=120,
            )
            if started.returncode != 0:  # a defect, and no reason to skip
                pytest.fail(f"Slurm is installed and did not start:\n{started.stderr[-3000:]}")
            yield Cluster(folder, slot)
        finally:
            _stop(folder)


@contextlib.contextmanager
def _free_slot() -> Iterator[int]:
    """Held as long as this process lives, by a lock on a file."""
    for slot in SLOTS:
        with open(f"/tmp/{PREFIX}slot-{slot}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield slot
            return
    pytest.fail(f"{len(SLOTS)} clusters run on this machine already (/tmp/{PREFIX}*)")


def _stop(folder: Path) -> None:
    subprocess.run([CLUSTER_SH, "stop", folder], timeout=120)
    shutil.rmtree(folder, ignore_errors=True)


def _stop_orphaned_clusters() -> None:
    """Those whose pytest was killed."""
    for folder in Path("/tmp").glob(PREFIX + "*"):
        owner = folder / "owner"
        if owner.exists() and not psutil.pid_exists(int(owner.read_text() or 0)):
            _stop(folder)
