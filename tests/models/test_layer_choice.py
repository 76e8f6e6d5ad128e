"""Whose layers, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paced_megatron.errors import UserError
from paced_megatron.models import layer_choice
from paced_megatron.models.layer_choice import choose_layers
from paced_megatron.runtime import extensions

GPU, CPU, BF16 = torch.device("cuda", 0), torch.device("cpu"), torch.bfloat16
MISFIT = "Transformer Engine 2.20.2 does not fit: Megatron-Core 0.16.1 wants <2.12.0,>=2.9.0a0"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch):
    """Stands for what is installed: neither Transformer Engine nor a GPU is here."""

    def install(version: str | None, missing: str | None, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(layer_choice, "transformer_engine_version", lambda: version)
        monkeypatch.setattr(layer_choice, "transformer_engine_missing", lambda: missing)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return install


def test_transformer_engines_where_it_fits_on_a_gpu_in_bfloat16(installed):
    installed("2.10.0", None)
    chosen = choose_layers("auto", GPU, BF16)
    assert (chosen.transformer_impl, chosen.warning) == ("transformer_engine", "")
    assert chosen.line == "layers: Transformer Engine's (2.10.0 is installed, on a GPU)"
    assert choose_layers("transformer_engine", GPU, BF16) == chosen
    assert choose_layers("auto", GPU, BF16, "hybrid") == chosen


def test_elsewhere_the_local_ones_with_the_reason(installed):
    installed("2.10.0", None)
    for wanted, device, dtype, why in (
        ("auto", CPU, BF16, "no GPU is used"),
        ("auto", GPU, torch.float32, "training.params_dtype is not bfloat16"),
        ("local", GPU, BF16, "training.transformer_impl=local"),
    ):
        chosen = choose_layers(wanted, device, dtype)
        assert (chosen.transformer_impl, chosen.warning) == ("local", "")
        assert chosen.line == f"layers: Megatron-Core's own ({why})"


def test_one_that_is_not_there_is_no_warning_and_one_that_does_not_fit_is(installed):
    installed(None, "Transformer Engine is not installed (Megatron-Core 0.16.1 wants >=2.9)")
    assert choose_layers("auto", GPU, BF16).warning == ""
    installed("2.20.2", MISFIT)
    chosen = choose_layers("auto", GPU, BF16)
    assert chosen.transformer_impl == "local"
    assert chosen.warning == f"{MISFIT}; attention, norms and optimizer are torch's instead, which is slower"


@pytest.mark.parametrize(
    "wanted, fp8, device, dtype, missing, capability, said",
    [
        (
            "transformer_engine", None, CPU, BF16, None, (9, 0),
            "training.transformer_impl=transformer_engine needs a GPU, and none is used here; set "
            "training.transformer_impl=auto",
        ),
        (
            "transformer_engine", None, GPU, BF16, MISFIT, (9, 0),
            f"training.transformer_impl=transformer_engine can't be had: {MISFIT}; install one that fits, or "
            "set training.transformer_impl=auto",
        ),
        (
            "transformer_engine", None, GPU, torch.float32, None, (9, 0),
            "training.transformer_impl=transformer_engine needs training.params_dtype=bfloat16; set that, or "
            "set training.transformer_impl=auto",
        ),
        (
            "auto", "hybrid", CPU, BF16, None, (9, 0),
            "training.fp8=hybrid needs a GPU, and none is used here; set training.fp8=null",
        ),
        (
            "auto", "e4m3", GPU, BF16, MISFIT, (9, 0),
            f"training.fp8=e4m3 can't be had: {MISFIT}; install one that fits, or set training.fp8=null",
        ),
        (
            "local", "e4m3", GPU, BF16, None, (9, 0),
            "training.fp8=e4m3 needs Transformer Engine's layers, not training.transformer_impl=local; set "
            "training.fp8=null",
        ),
        (
            "auto", "hybrid", GPU, BF16, None, (8, 0),
            "training.fp8=hybrid needs a GPU of compute capability 8.9 or newer, and this one has 8.0; set "
            "training.fp8=null",
        ),
    ],
)  # fmt: skip
def test_what_is_asked_for_and_cannot_be_had_is_refused_in_one_line(
    installed, wanted, fp8, device, dtype, missing, capability, said
):
    installed("2.20.2", missing, capability)
    with pytest.raises(UserError) as refused:
        choose_layers(wanted, device, dtype, fp8)
    assert str(refused.value) == said


def megatron_beside(site: Path, code: str) -> str:
    """What a new process prints that has `site` on its path and imports our model, and with it Megatron."""
    job = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys, paced_megatron.models.gpt\n{code}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (site, REPOSITORY)))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert job.returncode == 0, job.stderr[-2000:]
    return job.stdout.strip()


def install(site: Path, package: str, version: str, code: str) -> None:
    """A package as pip leaves it."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text(code)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


SAY_WHY = "from paced_megatron.runtime.extensions import *; print(transformer_engine_missing())"


def test_one_that_raises_anything_at_its_import_does_not_take_megatron_with_it(tmp_path):
    # As transformer-engine 2.20.2's wheels without their torch part do, in the version that is fitting here.
    install(
        tmp_path, "transformer_engine", "2.10.0", "raise RuntimeError('Found empty meta package.\\nMore')"
    )
    # And what PyPI has under the name of apex, which Megatron would take for NVIDIA's.
    install(tmp_path, "apex", "0.9.10", "raise SyntaxError('a web toolkit')")
    assert megatron_beside(tmp_path, SAY_WHY) == (
        "Transformer Engine 2.10.0 does not import (RuntimeError: Found empty meta package.)"
    )


def test_one_of_another_version_is_not_imported(tmp_path, monkeypatch):
    install(tmp_path, "transformer_engine", "1.0", "raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        extensions,
        "requires",
        lambda name: ["torch", 'transformer-engine[pytorch]<2.12.0,>=2.9.0a0; extra == "dev"'],
    )
    monkeypatch.setattr(extensions, "transformer_engine_version", lambda: "1.0")
    said = extensions.transformer_engine_missing.__wrapped__()
    assert said.startswith("Transformer Engine 1.0 does not fit: Megatron-Core ")
    assert "wants" in said and "<2.12.0" in said and ">=2.9.0a0" in said
