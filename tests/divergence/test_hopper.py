"""The kernels as Triton compiles them for Hopper and Ampere, which takes no GPU: nothing spills, and rows are
read 16 bytes at a time. In a process of its own, where Triton compiles and doesn't interpret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paced_megatron.divergence import DIVERGENCES

pytest.importorskip("triton.backends.nvidia.compiler")
WITH_KERNELS = [name for name, row in DIVERGENCES.items() if row.kernels]
# (compute capability times 10, vocabulary, divergences): all of them for Hopper and Qwen's; two of them for a
# vocabulary that is no multiple of 4, and for Ampere.
ASKED = (
    (90, 151_936, WITH_KERNELS),
    (90, 50_257, ["forward_kl", "jsd"]),
    (80, 151_936, ["forward_kl", "jsd"]),
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What divergence/compiled.py prints of every kernel."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    script = Path(__file__).with_name("compiled.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(ASKED)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    kernels: list[dict[str, Any]] = json.loads(done.stdout)
    return kernels


def test_every_kernel_was_compiled(compiled: list[dict[str, Any]]) -> None:
    """measure, the mixtures' sums, and each divergence's gradient in float32 and in bf16."""
    assert len(compiled) == (1 + 3 + 5 * 2) + 2 * (1 + 1 + 2 * 2)


def test_no_register_spills_and_several_programs_share_a_multiprocessor(
    compiled: list[dict[str, Any]],
) -> None:
    for kernel in compiled:
        assert kernel["local"] == 0 and kernel["stack"] == 0, kernel
        programs = 65_536 // (kernel["registers"] * 32 * kernel["warps"])
        assert programs >= 4, kernel


def test_whole_blocks_are_read_and_written_16_bytes_at_a_time(compiled: list[dict[str, Any]]) -> None:
    """A thread has 8 or 16 entries of a row: at four a load, none of a whole block is read otherwise."""
    for kernel in compiled:
        loads = 2 * kernel["entries"] // 4  # of both models
        assert kernel["wide_loads"] >= loads, kernel
        if kernel["name"].startswith("gradient"):
            assert kernel["wide_stores"] >= 1, kernel
