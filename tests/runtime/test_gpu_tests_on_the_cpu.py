"""The tests of tests/gpu, which a machine without a GPU skips, run here on its CPU: what a name misspelt or a
number mistaken would cost is the ten minutes in which a GPU is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from gpu.conftest import chosen_device

ROOT = Path(__file__).resolve().parents[2]
# One of each parametrised test, and no job of two processes: tests/parallel and tests/loop have those. An
# engine on the CPU computes in float32 whatever the folder is in, which one test says.
SMALL = "not two_ranks and not reverse_kl and not jsd and not akl and not selective"
SMALL += " and (not torch.bfloat16 or computes_on_the_device)"
# What a test may be skipped for here, as a part of its reason.
REASONS = ("needs a CUDA device", "needs two GPUs", "no SGLang", "Transformer Engine", "compute capability")


def _run_on_the_cpu(tmp_path: Path, expression: str) -> tuple[int, str, list[ElementTree.Element]]:
    """(exit code, output, the tests) of pytest -k EXPRESSION on tests/gpu."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "REQUIRE_"))}
    ours.pop("PACED_SGLANG_PYTHON", None)
    ours |= {"PACED_GPU_TESTS_ON": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["--junitxml", str(report), "-k", expression, "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True, timeout=280)
    return done.returncode, done.stdout + done.stderr, [*ElementTree.parse(report).iter("testcase")]


@pytest.mark.parallel
def test_on_a_cpu_every_body_runs_but_for_what_only_a_gpu_can_tell(tmp_path):
    code, output, cases = _run_on_the_cpu(tmp_path, SMALL)
    assert code == 0, output
    passed = {case.get("classname") for case in cases if not len(case.findall("skipped"))}
    for name in ("test_gradient", "test_loop", "test_memory", "test_rollouts", "test_specs"):
        assert f"tests.gpu.{name}" in passed, output
    for skipped in (found for case in cases for found in case.findall("skipped")):
        assert any(reason in f"{skipped.get('message')}" for reason in REASONS), skipped.get("message")


def test_without_a_gpu_a_test_is_skipped_and_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.skip.Exception, match="needs a CUDA device: `make test-gpu`"):
        chosen_device(on_cpu=False)
    assert chosen_device(on_cpu=True) == torch.device("cpu")


def test_all_tests_in_tests_gpu_are_marked_gpu():
    files = sorted((ROOT / "tests/gpu").glob("test_*.py"))
    assert len(files) >= 4
    for file in files:
        assert "pytestmark = pytest.mark.gpu" in file.read_text() or "@pytest.mark.gpu" in file.read_text(), (
            file
        )
