"""The launch scripts as text: what can be checked of them without a Slurm."""

from __future__ import annotations

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


def test_every_setting_of_cluster_env_has_a_comment() -> None:
    lines = (FOLDER / "cluster.env").read_text().splitlines()
    settings = [line for line in lines if re.match(r"(export )?[A-Z_0-9]+=", line)]
    assert len(settings) > 20
    assert not [line for line in settings if "  #" not in line and " # " not in line]
