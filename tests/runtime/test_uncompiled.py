"""On a machine without CUDA, Megatron-Core is imported without torch's compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

# What has been imported can't be imported anew: a process, and a fork of it for each of the modules.
SCRIPT = """
import importlib, os, sys, torch

compiler = torch.compile
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(name)
        from megatron.core.fusions.fused_bias_swiglu import swiglu
        loaded = "torch._inductor.compile_fx" in sys.modules
        print(name, loaded, torch.compile is compiler, type(swiglu).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA Megatron-Core is imported as it is")
def test_the_modules_that_import_megatron_first_do_so_without_the_compiler_and_leave_torch_as_it_was():
    names = ["paced_megatron.runtime.world", "paced_megatron.models.gpt", "paced_megatron.models.folder"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines() == [f"{name} False True function" for name in names], done.stderr
