"""Checks of GPUs and of what runs on them. torch and nvidia-smi are told what there is: here is no GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import yaml

from paced_megatron.config.io import load_config
from paced_megatron.doctor import Asked, Status
from paced_megatron.doctor.checks import triton
from paced_megatron.runtime import extensions


@pytest.fixture
def gpus(monkeypatch):
    """Called with a number of GPUs, their compute capability, and whether they reach each other."""

    def see(count: int, capability: tuple[int, int] = (9, 0), peers: bool = True) -> None:
        card = SimpleNamespace(name="Card", total_memory=80 * 2**30)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
        monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
        for name, value in {
            "is_available": True,
            "device_count": count,
            "get_device_properties": card,
            "get_device_capability": capability,
            "get_arch_list": ["sm_75", "sm_90"],
            "can_device_access_peer": peers,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)

    return see


@pytest.fixture
def packages(monkeypatch):
    """Called with a module and package -> its own list of what it requires."""

    def require(module, **lines: list[str]) -> None:
        monkeypatch.setattr(module, "requires", lambda name: lines[name.replace("-", "_")])

    return require


def test_an_old_gpu_is_noted_with_what_it_costs_in_each_dtype(found, asked, gpus, programs):
    gpus(2, (7, 5))
    finding = found("GPU", asked("training.params_dtype=bfloat16"))
    assert finding.status is Status.NOTE and "compute capability 7.5, below 8.0" in finding.says
    assert "bfloat16 is emulated" in finding.says and "params_dtype=float32" in finding.remedy
    finding = found("GPU", asked("training.params_dtype=float32"))
    assert finding.status is Status.NOTE and "bfloat16" not in finding.says + finding.remedy
    gpus(2, (9, 0))
    assert found("GPU", asked("training.params_dtype=bfloat16")).status is Status.OK


def test_a_real_student_without_a_gpu_is_noted_with_the_reason(found, asked, tmp_path, programs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found("GPU", asked()).status is Status.OK  # the quickstart's
    from pathlib import Path

    configs = Path(__file__).parents[1] / "data" / "configs"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text((configs / "Qwen3-0.6B.json").read_text())
    document = {
        "run_dir": str(tmp_path / "run"),
        "problems": {"train": "train.jsonl"},
        "student": {"path": str(tmp_path / "model")},
        "teacher": {"path": str(tmp_path / "model")},
        "stages": [{"train_iters": 1}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    finding = found("GPU", Asked(load_config(tmp_path / "recipe.yaml"), "recipe.yaml"))
    assert finding.status is Status.NOTE and "0.60 billion parameters" in finding.says
    assert "is a build for the CPU" in finding.says and "paced plan CONFIG --gpu" in finding.remedy


def test_a_run_whose_student_is_not_there_leaves_that_to_the_models_row(found, asked, hub_run, programs):
    for run in (hub_run, asked("student.path=/nowhere")):
        assert found("GPU", run).status is Status.OK


USED = "echo '0, 512, 81920, Disabled'\necho '1, 40960, 81920, [N/A]'"


def test_memory_that_other_programs_have_is_noted_by_gpu(found, gpus, program, programs):
    assert found("GPU memory").says == "no GPU is used"
    gpus(2)
    assert "no nvidia-smi" in found("GPU memory").says
    program("nvidia-smi", USED)
    finding = found("GPU memory")
    assert finding.status is Status.NOTE and finding.says.startswith("40.0 of 80.0 GB of GPU 1 are in use")
    program("nvidia-smi", "echo '0, 512, 81920, Disabled'")
    assert found("GPU memory").status is Status.OK
    program("nvidia-smi", "echo 'NVIDIA-SMI has failed' >&2; exit 9")
    assert "NVIDIA-SMI has failed" in found("GPU memory").says


def test_a_gpu_in_slices_is_noted(found, gpus, program):
    gpus(1)
    program("nvidia-smi", "echo '0, 512, 81920, Enabled'")
    finding = found("GPU memory")
    assert finding.status is Status.NOTE and "GPU 0 is cut into slices (MIG)" in finding.says


def test_gpus_that_do_not_reach_each_other_are_noted_and_one_alone_needs_not(found, asked, gpus, monkeypatch):
    assert found("GPUs together").says == "no two GPUs here"
    gpus(3)
    assert found("GPUs together").says == "NCCL 2.27.3; all 3 reach each other's memory"
    gpus(3, peers=False)
    finding = found("GPUs together")
    assert finding.status is Status.NOTE and "GPU 0 and 1, 0 and 2, 1 and 2 don't reach" in finding.says
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    finding = found("GPUs together", asked())
    assert finding.status is Status.PROBLEM and "2 processes" in finding.says
    assert found("GPUs together", asked("parallel.tensor_model_parallel_size=1")).status is Status.NOTE


def test_triton_is_asked_for_on_a_gpu_alone(found, gpus, modules, packages, monkeypatch):
    modules({"triton/__init__.py": "__version__ = '3.6.0'"})
    packages(triton, torch=["triton==3.6.0; platform_system == 'Linux'"])
    assert found("Triton").says == "Triton 3.6.0 imports; without a GPU nothing uses it"
    gpus(1)
    assert found("Triton").says == "Triton 3.6.0 imports"
    packages(triton, torch=["triton==3.5.0"])
    finding = found("Triton")
    assert finding.status is Status.NOTE and "triton==3.5.0" in finding.says and "==3.5.0" in finding.remedy
    modules({"triton/__init__.py": "raise ImportError('libcuda.so.1 is missing')"})
    finding = found("Triton")
    assert finding.status is Status.NOTE and "libcuda.so.1 is missing" in finding.says
    assert "torch path" in finding.says
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    finding = found("Triton")
    assert finding.status is Status.NOTE and "pip install triton" in finding.remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found("Triton").status is Status.OK


@pytest.mark.parametrize(
    ("lines", "version", "status"),
    [
        (["transformer-engine[pytorch]<2.12.0,>=2.9.0a0; extra == 'dev'"], "2.9.0", Status.OK),
        (["transformer-engine[pytorch]<2.12.0,>=2.9.0a0; extra == 'dev'"], "2.13.0", Status.NOTE),
        (["transformer-engine[pytorch]<2.12.0,>=2.9.0a0; extra == 'dev'"], "1.14", Status.NOTE),
        (["transformer-engine[pytorch]; extra == 'te'"], "2.13.0", Status.OK),  # as in 0.19.2
        (["numpy"], "2.13.0", Status.OK),
    ],
)
def test_a_transformer_engine_that_megatron_core_does_not_name_is_noted_with_those_it_does(
    found, modules, packages, lines, version, status
):
    modules(
        {
            "transformer_engine/__init__.py": "",
            "transformer_engine/pytorch.py": "",
            f"transformer_engine-{version}.dist-info/METADATA": (
                f"Metadata-Version: 2.1\nName: transformer-engine\nVersion: {version}\n"
            ),
        }
    )
    packages(extensions, megatron_core=lines)
    finding = found("Transformer Engine")
    assert finding.status is status and version in finding.says
    if status is Status.NOTE:
        assert "<2.12.0,>=2.9.0a0" in finding.says and "pip install 'transformer-engine" in finding.remedy


def test_this_megatron_core_names_its_versions_where_it_is_of_0_16():
    from importlib.metadata import version

    if not version("megatron-core").startswith("0.16"):
        pytest.skip("later ones name none")
    wanted = extensions.transformer_engine_wanted()
    assert wanted.contains("2.9.0") and wanted.contains("2.11.0") and not wanted.contains("2.12.0")
    assert "transformer_engine" not in sys.modules
