"""What a profiler's trace is read as, and the dry run of the profile."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import profile
from benchmarks.gpu.trace import Region


def event(
    cat: str, name: str, ts: float, dur: float, correlation: int | None = None, tid: int = 1
) -> dict[str, Any]:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "args": args}


REGION = event("user_annotation", "measured", 100, 100)
# A GPU's trace by hand, for want of a GPU: names and categories as Kineto writes them.
TRACE = [
    event("cuda_runtime", "cudaLaunchKernel", 90, 2, 1),
    event("kernel", "before_gemm", 150, 1000, 1),
    REGION,
    event("gpu_user_annotation", "measured", 100, 900),
    event("cuda_runtime", "cudaLaunchKernelExC", 110, 2, 2),
    event("cuda_runtime", "cudaLaunchKernel", 120, 2, 3),
    event("cuda_runtime", "cudaLaunchKernel", 130, 2, 4),
    event("cuda_driver", "cuLaunchKernel", 135, 2, 5),
    event("cuda_runtime", "cudaMemcpyAsync", 140, 2, 6),
    event("cuda_runtime", "cudaMemcpyAsync", 145, 2, 7),
    event("cuda_runtime", "cudaStreamSynchronize", 150, 2, 8),
    event("cuda_runtime", "cudaStreamIsCapturing", 151, 2, 9),
    event("cuda_runtime", "cudaDeviceSynchronize", 205, 2, 10),
    event("kernel", "nvjet_tst_128x256", 300, 3000, 2),
    event("kernel", "nvjet_tst_128x256", 400, 3000, 3),
    event("kernel", "flash_fwd_sm90_gemm", 500, 2000, 4),
    event("kernel", "_measure_kernel", 600, 2000, 5),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 700, 10, 6),
    event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 710, 10, 7),
    {"ph": "M", "name": "process_name"},
]


def test_kernels_are_those_started_in_the_region_and_the_wait_after_it_is_not_its_own() -> None:
    region = Region.of(TRACE, "measured")
    assert [(kernel.name, kernel.calls, kernel.milliseconds) for kernel in region.kernels] == [
        ("nvjet_tst_128x256", 2, 6.0),
        ("flash_fwd_sm90_gemm", 1, 2.0),
        ("_measure_kernel", 1, 2.0),
    ]
    assert region.milliseconds == 10.0 and region.product_share == 0.6
    assert region.syncs == {"cudaStreamSynchronize": 1, "copies to the host": 1}


def test_the_table_says_shares_products_and_syncs_and_sums_up_what_it_leaves_out() -> None:
    text = Region.of(TRACE, "measured").table(rows=1)
    assert "6.000   0.600      2 *nvjet_tst_128x256" in text and "4.000 in 2 more" in text
    assert "share of products 0.600" in text
    assert "host syncs: 1 x cudaStreamSynchronize, 1 x copies to the host" in text
    assert "host syncs: none" in Region.of([REGION], "measured").table()


def test_on_a_cpu_an_operation_has_its_own_time_without_those_within() -> None:
    operations = [
        event("cpu_op", "aten::linear", 110, 50),
        event("cpu_op", "aten::mm", 115, 40),
        event("cpu_op", "aten::mm", 165, 10),
        event("cpu_op", "aten::exp", 120, 30, tid=2),
        event("cpu_op", "aten::add", 90, 5),
    ]
    kernels = {kernel.name: kernel for kernel in Region.of([REGION, *operations], "measured").kernels}
    assert {name: kernel.milliseconds for name, kernel in kernels.items()} == {
        "aten::mm": pytest.approx(0.05),
        "aten::exp": pytest.approx(0.03),
        "aten::linear": pytest.approx(0.01),
    }
    assert kernels["aten::mm"].is_product and not kernels["aten::linear"].is_product


def test_a_trace_without_the_region_or_with_two_is_refused() -> None:
    for trace in ([], [REGION, REGION]):
        with pytest.raises(ValueError, match="regions named measured, not one"):
            Region.of(trace, "measured")


def test_a_dry_run_leaves_a_table_and_a_trace_of_the_divergence_and_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step is any callable here; benchmarks.gpu.step's takes Megatron, and is tested where it is."""
    (tmp_path / "a_step.py").write_text(
        "import torch\ndef make():\n    return lambda: torch.ones(8, 8) @ torch.ones(8, 8)\n"
        "def broken():\n    raise RuntimeError('no memory for that')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["profile", "--out", str(out), "--dry-run", *arguments])
        return profile.main(), capsys.readouterr().out

    code, said = run("--step", "a_step:make")
    assert code == 0
    for name, operation in (("divergence", "aten::addmm_"), ("step", "aten::mm")):
        text = (out / f"{name}.txt").read_text()
        assert text in said and f"*{operation}" in text and "host syncs: none" in text
        with gzip.open(out / f"{name}.trace.json.gz") as file:
            assert any(event.get("name") == operation for event in json.load(file)["traceEvents"])

    code, said = run("--only", "step", "--step", "a_step:broken")
    assert code == 1 and "step: failed: RuntimeError: no memory for that" in said
    code, said = run("--only", "step", "--step", "nowhere:make")
    assert code == 0 and "step: not profiled, nowhere is not installed" in said


def test_a_trace_too_large_to_come_back_is_left_out_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "MOST_BYTES", 10)
    text = profile.profiled("small", lambda: torch.ones(8, 8) @ torch.ones(8, 8), tmp_path, "cpu")
    assert "was not kept" in text and [path.name for path in tmp_path.iterdir()] == ["small.txt"]
