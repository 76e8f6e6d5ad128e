"""The launch scripts as text: what can be checked of them without a Slurm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "slurm"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch"), FOLDER / "cluster.env"])
SBATCH = sorted(FOLDER.glob("*.sbatch"))


def late_directives(text: str) -> list[str]:
    """#SBATCH lines behind the first command: sbatch ignores them, and says nothing."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return [line for line in lines[first:] if line.lstrip().startswith("#SBATCH")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_understands_the_script(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("script", SBATCH, ids=lambda path: path.name)
def test_no_sbatch_line_comes_after_the_first_command(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!") and "#SBATCH" in text and not late_directives(text)


def test_a_late_sbatch_line_is_found() -> None:
    assert late_directives("#!/bin/bash\n#SBATCH --nodes=1\n\necho\n#SBATCH --time=1\n") == [
        "#SBATCH --time=1"
    ]


@pytest.mark.parametrize("script", SBATCH, ids=lambda path: path.name)
def test_no_script_looks_for_its_files_beside_slurms_copy_of_it(script: Path) -> None:
    assert not re.search(r"dirname|BASH_SOURCE|\$0", script.read_text())


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.prefix) / "bin" / "shellcheck"
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, "no shellcheck; it comes with the extra `dev`: make install"
    scripts = [path for path in SCRIPTS if path.name != "cluster.env"]
    others = [ROOT / "tests/slurm/cluster.sh", ROOT / ".ci/run"]
    done = subprocess.run(
        [shellcheck, "-x", "-P", FOLDER, *scripts, *others], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def with_servers_sh(folder: Path, script: str, **settings: str) -> str:
    """What a script prints that has sourced servers.sh, with these settings of cluster.env; $HOME is
    `folder`."""
    lines = [f'{name}="{value}"' for name, value in settings.items()]
    path = folder / "cluster.env"
    path.write_text("\n".join(((FOLDER / "cluster.env").read_text(), *lines, "")))
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    variables |= {"PACED_REPO": str(ROOT), "PACED_CLUSTER_ENV": str(path)}
    sources = "source slurm/common.sh && source slurm/servers.sh || exit\n"
    done = subprocess.run(
        ["bash", "-c", sources + script], capture_output=True, text=True, cwd=ROOT, env=variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("ranks", "servers", "used"), [("", "", ""), ("/r", "", "/r"), ("/r", "/s", "/s"), ("", "/s", "/s")]
)
def test_servers_have_the_ranks_container_or_one_of_their_own(
    tmp_path: Path, ranks: str, servers: str, used: str
) -> None:
    script = """
        srun() { echo --container-image; } # as with pyxis
        server_container
        printf '%s\\n' "${SERVER_CONTAINER[@]}"
    """
    said = with_servers_sh(tmp_path, script, CONTAINER_IMAGE=ranks, SERVER_IMAGE=servers)
    images = [line for line in said.splitlines() if line.startswith("--container-image=")]
    assert images == ([f"--container-image={used}"] if used else [])


def test_ranks_are_told_to_stop_once_and_do_not_begin_where_the_servers_are_gone_before(
    tmp_path: Path,
) -> None:
    script = """
        srun() { echo started; }
        tell_to_stop() { echo "told $1"; }
        SERVED=("student n1 1 server-0" "teacher n1 2 server-1") SLURM_JOB_ID=7 PACED_LOG_DIR=$HOME
        touch "$HOME/7-server-0.given-up" # in the minutes in which the teacher's starts
        on_given_up
        run_step ranks -- true
        echo "code $?"
        STOP_ASKED="" STEP_NAME=ranks
        on_given_up # told a second time they would end unsaved
        on_given_up
        on_usr1
        wait
    """
    said = with_servers_sh(tmp_path, script)
    assert "started" not in said and "code 75\n" in said and said.count("told ranks\n") == 1


def test_every_setting_of_cluster_env_has_a_comment() -> None:
    lines = (FOLDER / "cluster.env").read_text().splitlines()
    settings = [line for line in lines if re.match(r"(export )?[A-Z_0-9]+=", line)]
    assert len(settings) > 20
    assert not [line for line in settings if "  #" not in line and " # " not in line]
