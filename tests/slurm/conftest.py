"""The fixture `slurm`: a real cluster on this machine (tests/slurm_cluster.py), one for a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_cluster import GPUS, ROOT, Cluster, install, running_cluster


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Cluster]:
    install()
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: Cluster) -> Iterator[Cluster]:
    """The cluster with nothing running and all nodes idle; what a test leaves is cancelled."""
    yield slurm_session
    slurm_session.clean()


@pytest.fixture
def cluster_env(slurm_session: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """slurm/cluster.env as filled in for this cluster: a file of its own for each test, which every script
    that the test submits reads."""
    path = tmp_path / "cluster.env"
    path.write_text(
        (ROOT / "slurm" / "cluster.env").read_text() + "\n# as this machine has it\n"
        f'ACCOUNT=""\nPARTITION=main\nTIME=00:10:00\nSIGNAL_BEFORE_S=30\n'
        f'GPUS_PER_NODE={GPUS}\nTASKS_PER_NODE=2\nCPUS_PER_TASK=1\nMEMORY=""\nVENV="{sys.prefix}"\n'
    )
    monkeypatch.setitem(slurm_session.environment, "PACED_CLUSTER_ENV", str(path))
    return path
