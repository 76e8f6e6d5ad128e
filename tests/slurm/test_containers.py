"""Containers by one switch: CONTAINER_IMAGE in cluster.env, handed on as options of srun alone.

pyxis can't be had here (it is built against a site's Slurm, and runs enroot, which wants more of a kernel
than a container has), so fake_pyxis.c stands in: a real SPANK plugin with pyxis's options, which a real srun
parses, refuses and hands to the tasks. It runs nothing in a container: that pyxis does with an image what it
is asked to is not tested.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_cluster import Cluster, unavailable

pytestmark = pytest.mark.slurm

SCRIPT = """\
#!/usr/bin/env bash
source "${PACED_REPO:-$SLURM_SUBMIT_DIR}/slurm/common.sh"
in_environment
run_step show -- bash -c 'echo "image [${FAKE_IMAGE:-}] mounts [${FAKE_MOUNTS:-}] in [${FAKE_WORKDIR:-}]"'
exit
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, compiled. Only this needs Slurm's header files, which are a small package."""
    header = Path("/usr/include/slurm/spank.h")
    if not header.exists() and shutil.which("apt-get"):
        command = (
            "apt-get update -qq; apt-get install -y -qq --no-install-recommends libslurm-dev gcc libc6-dev"
        )
        subprocess.run(["bash", "-c", command], capture_output=True, timeout=180)
    if not header.exists() or shutil.which("gcc") is None:
        unavailable("the stand-in for pyxis is compiled with libslurm-dev and gcc")
    library = tmp_path_factory.mktemp("plugin") / "fake_pyxis.so"
    source = Path(__file__).with_name("fake_pyxis.c")
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60
    )
    return library


@pytest.fixture
def with_pyxis(slurm: Cluster, plugin: Path) -> Iterator[Cluster]:
    """The cluster whose srun knows --container-image."""
    stack = slurm.folder / "plugstack.conf"
    before = stack.read_text()
    stack.write_text(f"required {plugin}\n")
    yield slurm
    stack.write_text(before)


def submit(slurm: Cluster, folder: Path, cluster_env: Path, *settings: str) -> tuple[str, str]:
    """(exit code, log) of a job of one step, with these lines of cluster.env."""
    cluster_env.write_text("\n".join((cluster_env.read_text(), *settings, "")))
    (folder / "job.sbatch").write_text(SCRIPT)
    job = slurm.sbatch("--output=job.log", "job.sbatch", cwd=folder)
    slurm.wait(job)
    return slurm.field(job, "ExitCode"), (folder / "job.log").read_text()


def test_with_an_image_the_tasks_run_in_it_with_the_repository_and_the_working_folder_mounted(
    with_pyxis: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    settings = ("CONTAINER_IMAGE=/images/paced.sqsh", "CONTAINER_MOUNTS=/data:/data")
    code, log = submit(with_pyxis, tmp_path, cluster_env, *settings)
    repository, here = with_pyxis.environment["PACED_REPO"], tmp_path
    mounts = f"{repository}:{repository},{here}:{here},/data:/data"
    assert code == "0:0", log
    assert log.splitlines()[-1] == f"image [/images/paced.sqsh] mounts [{mounts}] in [{here}]"


def test_without_an_image_the_same_script_runs_where_srun_knows_no_containers(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    code, log = submit(slurm, tmp_path, cluster_env)
    assert (code, log.splitlines()[-1]) == ("0:0", "image [] mounts [] in []")


def test_an_image_that_cannot_be_had_is_named_in_the_jobs_log(
    with_pyxis: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    code, log = submit(with_pyxis, tmp_path, cluster_env, "CONTAINER_IMAGE=MISSING.sqsh")
    assert code == "1:0"
    assert "failed to import docker image: MISSING.sqsh" in log


def test_without_pyxis_an_image_is_refused_in_one_line(
    slurm: Cluster, tmp_path: Path, cluster_env: Path
) -> None:
    code, log = submit(slurm, tmp_path, cluster_env, "CONTAINER_IMAGE=/images/paced.sqsh")
    assert code == "2:0"
    assert (
        log.startswith("paced: CONTAINER_IMAGE is set, but this Slurm has no pyxis") and log.count("\n") == 1
    )
