"""examples/divergence/standalone.py runs, and the student comes nearer to its teacher."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "divergence" / "standalone.py"


@pytest.mark.parametrize("arguments", [[], ["jsd", "0.5"]], ids=" ".join)
def test_the_standalone_loop_prints_a_falling_divergence(arguments: list[str]) -> None:
    """Both models and the batch are seeded in the script."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed = [float(number) for number in re.findall(r"step +\d+: (\S+) nats per token", done.stdout)]
    assert len(printed) == 5
    assert all(later < earlier for earlier, later in pairwise(printed)), printed
    assert printed[-1] < 0.6 * printed[0]
